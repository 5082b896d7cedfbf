"""How ordinary torch code becomes a graph: what is seen, followed, drawn anew, or refused."""
