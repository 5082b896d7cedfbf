"""The user interface: graphs, values, functions over axes, and the trace of a module."""
