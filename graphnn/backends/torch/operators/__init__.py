"""Parts of a graph as torch operators with their derivatives."""
