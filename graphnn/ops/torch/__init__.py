"""Torch functions as primitive operations of the table."""
