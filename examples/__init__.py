"""Runnable programs, each of which declares a network with loops and trains it."""
