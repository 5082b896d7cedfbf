"""Benchmarks: graphnn next to what a user would pick instead, timed in one run.

`cases` lists the cases as data. `networks`, `variants` and `attention` define the networks, `peers`
the other libraries. `prepare` builds a case and its contenders. `graphnn.timing` checks, times and
shows them; `plots` and `versus` work on files of results.
"""
