"""Launching kernels on tensors, and the kernels of random numbers and linear scans."""
