"""Run kernels on a CPU by Triton's interpreter, with their programs in any order."""
