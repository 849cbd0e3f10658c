"""Experiments of the literature on mixtures, small enough to run again. Each file has `check(seed) -> figures`."""
