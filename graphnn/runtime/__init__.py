"""Compiled models: calling, streaming and generating."""
