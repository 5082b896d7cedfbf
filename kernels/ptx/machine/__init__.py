"""The machine that programs run on: threads, memory, barriers, and the order of accesses."""
