"""Choosing a kernel, its launch and the strategy of a loop: by a cost model, or by timing."""
