"""Library: experts on disk. Read, write, describe, compare and search folders of PEFT adapters."""

from roster.library.adapter import Adapter, LowRank
from roster.library.cluster import cluster, similarity
from roster.library.fingerprint import check_same_base, digest, fingerprint
from roster.library.fits import check_fits
from roster.library.folder import Library
from roster.library.making import make_adapter
from roster.library.reading import read_adapter
from roster.library.refresh import refresh_cards
from roster.library.search import find
from roster.library.writing import write_adapter
from roster.shelf.card import Card

__all__ = [
    "Adapter",
    "Card",
    "Library",
    "LowRank",
    "check_fits",
    "check_same_base",
    "cluster",
    "digest",
    "find",
    "fingerprint",
    "make_adapter",
    "read_adapter",
    "refresh_cards",
    "similarity",
    "write_adapter",
]
