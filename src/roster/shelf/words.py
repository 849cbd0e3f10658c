"""Ranking texts by words: TF-IDF over pieces of words (two to four characters), so that "summary" finds "summarise".

Equation: of a piece p in text d, tf = its count in d, idf = ln((1 + N) / (1 + df)) + 1; cosine of the products.
Shapes: each text is a sorted list of hashed pieces and their counts, which can be kept and is all that a query needs.
Trains: nothing.
Source: the weights are scikit-learn's `TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))`, to 1e-6 (tests); here
    without it, because importing it takes longer than searching a thousand cards. Pieces are told apart by CRC-32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

SHORTEST, LONGEST = 2, 4

Pieces = tuple[NDArray[np.uint32], NDArray[np.uint32]]
"""Hashes in rising order, and how often each is there."""


def pieces(text: str) -> Pieces:
    """The pieces of a text."""
    counts: Counter[str] = Counter()
    for word in text.lower().split():
        padded = f" {word} "
        for length in range(SHORTEST, LONGEST + 1):
            if len(padded) <= length:  # a short word counts once
                counts[padded] += 1
                break
            counts.update(padded[at : at + length] for at in range(len(padded) - length + 1))
    hashed: Counter[int] = Counter()
    for piece, count in counts.items():
        hashed[crc32(piece.encode())] += count
    order = sorted(hashed)
    return np.array(order, np.uint32), np.array([hashed[each] for each in order], np.uint32)


def cosines(known: Sequence[Pieces], asked: Pieces) -> NDArray[np.float64]:
    """How alike each of some texts is to another, from 0 to 1.

    Args:
        known: the texts, which also say how rare a piece is.
        asked: the other; pieces of it that no text has count for nothing.
    """
    N = len(known)
    sizes_N = np.array([len(hashes) for hashes, _ in known], np.int64)
    if not sizes_N.sum():
        return np.zeros(N)
    hashes_P = np.concatenate([hashes for hashes, _ in known])
    counts_P = np.concatenate([counts for _, counts in known]).astype(np.float64)
    vocabulary_V, place_P, df_V = np.unique(hashes_P, return_inverse=True, return_counts=True)
    idf_V = np.log((1 + N) / (1 + df_V)) + 1
    weight_P = counts_P * idf_V[place_P]
    owner_P = np.repeat(np.arange(N), sizes_N)
    norm_N = np.sqrt(np.bincount(owner_P, weight_P**2, N))
    at_Q = np.searchsorted(vocabulary_V, asked[0])
    there_Q = vocabulary_V[np.minimum(at_Q, len(vocabulary_V) - 1)] == asked[0]
    query_V = np.zeros(len(vocabulary_V))
    query_V[at_Q[there_Q]] = asked[1][there_Q] * idf_V[at_Q[there_Q]]
    size = float(np.sqrt(np.square(query_V).sum()))
    if size == 0:
        return np.zeros(N)
    inner_N = np.bincount(owner_P, weight_P * query_V[place_P], N)
    return inner_N / (np.where(norm_N > 0, norm_N, 1.0) * size)
