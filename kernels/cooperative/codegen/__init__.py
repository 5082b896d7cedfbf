"""Writes the cooperative kernel that a plan describes."""
