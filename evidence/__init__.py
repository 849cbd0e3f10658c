"""Checks of published claims: not part of the package, run from a checkout by `make evidence`."""
