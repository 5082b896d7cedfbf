"""The programs that kernels are written from, the statements they become, and their names."""
