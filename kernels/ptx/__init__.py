"""Compiled kernels, executed as PTX on a CPU."""
