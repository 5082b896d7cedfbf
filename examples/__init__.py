"""Runnable programs. Each declares a network with loops and trains it."""
