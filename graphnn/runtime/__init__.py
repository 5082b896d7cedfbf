"""Compiled models: calling, streaming and generating."""

from graphnn.runtime import drawing as drawing
