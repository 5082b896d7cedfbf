"""`gn.verify`: every kernel of a model as compiled, compared with the interpreter and float64."""
