"""The functions that generated torch code calls."""
