"""Compiled models: calling, streaming, generating, profiling and drawing them."""
