"""Tracing of plain torch code: the calls, what they read of modules, and when to trace again."""
