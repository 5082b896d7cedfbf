"""Attention as kernels, forward and backward."""
