"""What runs kernels: a GPU, or Triton's interpreter on the CPU."""
