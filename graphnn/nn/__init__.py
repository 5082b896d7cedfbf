"""Library modules over values."""
