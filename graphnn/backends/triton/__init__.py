"""Regions of a plan as Triton kernels, known to autograd and to torch.compile."""
