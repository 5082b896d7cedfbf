"""Running a model one position at a time."""
