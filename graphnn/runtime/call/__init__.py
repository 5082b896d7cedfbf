"""One call of a model: arguments checked, torch's wrappers handled, programs found."""
