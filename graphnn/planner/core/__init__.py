"""What every pass is made of: regions, rewriting, cost."""
