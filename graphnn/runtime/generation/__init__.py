"""Generation: each symbol is chosen from an output and fed back as the next input."""
