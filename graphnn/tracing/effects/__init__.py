"""Torch calls with effects: in-place writes, random numbers, custom backwards, initialisation."""
