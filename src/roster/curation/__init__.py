"""Curation: which rows of a pool should an expert learn from? Start reading at `select.py`."""
