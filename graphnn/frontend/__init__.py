"""What a user draws a graph with."""
