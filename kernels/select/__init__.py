"""Which kernel, and which launch of it, is the fastest: predicted by a model, or timed."""
