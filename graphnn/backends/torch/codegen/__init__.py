"""Writes torch code: functions, loops, expressions."""
