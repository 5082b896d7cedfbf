"""Rewrites by algebra: fewer, larger, or earlier operations."""
