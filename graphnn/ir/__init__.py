"""The graph of a network: nodes on values with named axes."""
