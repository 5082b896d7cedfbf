"""Loops whose state is sharded over many thread blocks: one cooperative kernel."""
