"""Torch calls that do more than return a value: in-place work, random numbers, own backwards."""
