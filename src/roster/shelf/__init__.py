"""Shelf: a folder of adapters as its headers and cards tell of it, listed and searched without torch.

`contents` reads one adapter, `index` remembers a folder of them, `words` ranks by what cards say. What needs weights
(reading, checking, comparing) is in `roster.library`.
"""
