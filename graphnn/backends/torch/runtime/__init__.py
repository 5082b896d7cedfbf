"""Functions that generated torch code calls."""
