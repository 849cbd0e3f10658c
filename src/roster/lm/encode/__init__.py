"""Prompts as vectors of length 1. One encoder a file; every estimator takes any of them."""

from roster.lm.encode.base import Encoder
from roster.lm.encode.sentence import MiniLM, SentenceTransformer
from roster.lm.encode.tfidf import TfIdf

__all__ = ["ENCODERS", "Encoder", "MiniLM", "SentenceTransformer", "TfIdf", "encoder"]

ENCODERS = {"tfidf": TfIdf, "minilm": MiniLM}


def encoder(name: str) -> Encoder:
    """`tfidf`, `minilm`, or the name or folder of any sentence-transformers model."""
    return ENCODERS[name]() if name in ENCODERS else SentenceTransformer(name)
