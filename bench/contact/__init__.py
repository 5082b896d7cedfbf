"""First contact with a GPU: what only a GPU can tell, in ten minutes."""
