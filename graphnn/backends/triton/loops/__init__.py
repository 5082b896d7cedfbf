"""Loops as kernels: their programs, and the torch code that calls them."""
