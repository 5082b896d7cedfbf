"""How each loop runs."""
