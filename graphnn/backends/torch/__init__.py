"""A plan as torch code: readable Python source, compiled once, run on any device torch has.

`nodes` writes one operation, `loops` a loop step by step into preallocated buffers, `module` the
whole model; `runtime` has what the written code calls, `custom` makes loops known to autograd and
torch.compile.
"""
