"""Arenas: side-by-side comparisons on equal terms, with one table at the end. `mix` compares ways to use a folder of
adapters; the checks of single methods are in `checks`."""
