"""Benchmarks: what graphnn takes, beside what a user would pick instead, in one run."""
