"""Attention, transformers, and decoders that attend."""
