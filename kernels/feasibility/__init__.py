"""Whether a kernel fits a GPU: predicted, or compiled ahead of time and inspected."""
