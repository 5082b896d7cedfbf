"""What a call asks of a graph: dtypes, lengths, states, memory order, single steps."""
