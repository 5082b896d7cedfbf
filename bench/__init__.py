"""Benchmarks: what graphnn takes, beside what a user would pick instead, in one run.

`cases` are data, `networks`, `variants` and `attention` what is timed, `peers` who else, `prepare`
puts a case and its contenders together; `graphnn.timing` checks, times and shows them.
"""
