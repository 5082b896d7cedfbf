"""How a loop is sharded over thread blocks: which block has what, and what they exchange."""
