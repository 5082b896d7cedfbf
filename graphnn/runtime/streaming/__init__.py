"""One position at a time: steps, their inputs, and the caches they carry."""
