"""A plan's loops as generated Triton kernels; what lies outside loops stays with torch.

`lower` turns a loop of the graph into a program of `graphnn.kernels`, `lowering` decides which
loops become kernels and writes their calls.
"""
