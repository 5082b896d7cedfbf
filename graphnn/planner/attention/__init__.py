"""Softmax and the sums it weights as one operation."""
