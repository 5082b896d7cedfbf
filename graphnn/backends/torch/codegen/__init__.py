"""Generates torch code: expressions, statements, loops and functions."""
