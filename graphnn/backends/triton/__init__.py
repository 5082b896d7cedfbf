"""A plan's loops as generated Triton kernels; torch runs everything outside loops.

`lower` turns a loop, or a phase of its step, into a program of `graphnn.kernels`; `lowering`
decides which loops become kernels and writes their calls, `steps` those that go step by step;
`scans` has the parallel scans.
"""
