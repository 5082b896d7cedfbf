"""From a plan to a callable: `reference` defines the semantics, `torch` and `triton` are fast."""
