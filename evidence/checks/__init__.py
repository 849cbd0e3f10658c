"""Checks: does a method show its own claim, at a size for a laptop, against the baseline its source names?

One file a method; each has a `check(seed) -> figures` and a `shown(figures of all seeds) -> bool`. `make evidence`
runs them and commits what they say, good or bad.
"""
