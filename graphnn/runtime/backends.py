"""The names of backends and of float32 modes. It imports nothing, for the command line."""

BACKENDS = ("auto", "torch", "triton", "interpret", "reference")
KERNELS = ("triton", "interpret")  # backends that run loops as Triton kernels everywhere
FLOAT32 = ("ieee", "tf32x3", "tf32")  # how kernels multiply float32
