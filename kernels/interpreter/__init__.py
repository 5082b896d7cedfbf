"""Running kernels on a CPU by Triton's interpreter, in any order of their programs."""
