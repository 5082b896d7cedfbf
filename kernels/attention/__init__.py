"""Attention kernels: a program holds a tile of queries and loops over tiles of keys."""
