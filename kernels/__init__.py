"""Loops as Triton kernels: from a small loop program to source, launches, checks and proofs.

Imported as `graphnn.kernels`; depends on nothing else of graphnn and can be used alone.
"""
