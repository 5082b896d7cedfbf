"""Which versions of Python, torch and Triton work: checks of the installed ones, and their table.

The commands are in `__main__`. The checks need nothing that is not installed, and no GPU.
"""
