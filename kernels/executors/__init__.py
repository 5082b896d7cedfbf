"""What runs kernels: a GPU, Triton's interpreter, or the executor of compiled PTX."""
