"""From a plan to something callable: `reference` is the meaning, `torch` the one that is fast."""
