"""Networks with a memory of slots."""
