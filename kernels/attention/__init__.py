"""Kernels of attention: tiles of queries that loop over tiles of keys."""
