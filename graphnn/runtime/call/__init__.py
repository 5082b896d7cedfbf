"""One call of a model: arguments checked, networks and their programs found and run."""
