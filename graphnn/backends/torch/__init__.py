"""A plan as torch code: readable Python source, compiled once, for every device of torch.

`codegen` writes functions: `operations` one operation, `loop` a loop step by step into preallocated
buffers. `operators` are the parts of a graph that autograd and torch.compile know as operators,
`main_function` writes the call of the whole network, and `program` builds it all. `runtime` has the
functions that generated code calls. Imports point from `program` down to `runtime`.
"""
