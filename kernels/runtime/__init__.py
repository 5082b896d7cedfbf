"""Launching kernels, and the device functions that generated code calls."""
