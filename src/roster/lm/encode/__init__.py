"""Prompts as vectors of length 1. One encoder a file; every estimator takes any of them."""

from roster.errors import RosterError
from roster.lm.encode.api import EmbeddingAPI
from roster.lm.encode.base import Encoder
from roster.lm.encode.figures import WithFigures
from roster.lm.encode.letters import Letters
from roster.lm.encode.sentence import MiniLM, SentenceTransformer
from roster.lm.encode.tfidf import TfIdf

__all__ = [
    "ENCODERS",
    "KINDS",
    "EmbeddingAPI",
    "Encoder",
    "Letters",
    "MiniLM",
    "SentenceTransformer",
    "TfIdf",
    "WithFigures",
    "encoder",
]

ENCODERS = {"tfidf": TfIdf, "minilm": MiniLM, "letters": Letters}
KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (*ENCODERS.values(), EmbeddingAPI, SentenceTransformer, WithFigures)
}
"""Every encoder that a folder may name."""


def encoder(name: str) -> Encoder:
    """`tfidf`, `minilm`, `api:MODEL` or `api:MODEL@URL`, or the name or folder of a sentence-transformers model.

    `api:MODEL` asks OpenAI's server, with the key in OPENAI_API_KEY; with a URL, any server with `/v1/embeddings`. A
    name with `+figures` behind it has figures of the prompt's form before the vector.
    """
    base, plus, more = name.rpartition("+")
    if plus and more == "figures":
        return WithFigures(encoder=encoder(base))
    if name.startswith("api:"):
        model, _, url = name.removeprefix("api:").partition("@")
        if not model:
            raise RosterError(f"the encoder {name!r} names no model: write api:MODEL or api:MODEL@URL")
        return EmbeddingAPI(model, url) if url else EmbeddingAPI(model)
    return ENCODERS[name]() if name in ENCODERS else SentenceTransformer(name)
