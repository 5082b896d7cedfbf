"""What generated torch code calls."""
