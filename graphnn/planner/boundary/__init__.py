"""Where a call begins and ends: dtypes, lengths, states, memory order, single steps."""
