"""The names of backends and of float32 modes. It imports nothing, for the command line."""

BACKENDS = ("auto", "torch", "triton", "interpret", "ptx", "reference")
KERNELS = ("triton", "interpret", "ptx")  # backends that run loops as Triton kernels everywhere
PLANNED = ("interpret", "ptx")  # backends that plan for a GPU which may be absent
FLOAT32 = ("ieee", "tf32x3", "tf32")  # how kernels multiply float32
