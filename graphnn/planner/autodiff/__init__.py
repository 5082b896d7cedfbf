"""Derivatives of loops and of attention, as graphs."""
