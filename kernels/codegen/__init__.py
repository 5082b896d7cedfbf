"""Writes the kernel in which one thread block runs a whole loop: the persistent kernel."""
