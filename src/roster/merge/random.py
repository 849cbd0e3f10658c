"""Random numbers for the elements of a tensor: the same for an element whatever pieces are asked for."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from roster.weights import BLOCK

RANGE = 1 << 32


def draws(seed: int, tensor: str, model: int, start: int, stop: int) -> npt.NDArray[np.uint32]:
    """One number in [0, 2^32) for each of the elements [start, stop).

    Args:
        seed: the run's.
        tensor: the tensor's name; tensors draw independently.
        model: which model's; models draw independently.
        start, stop: flat positions in the tensor.
    """
    salt = zlib.crc32(tensor.encode())
    first = start // BLOCK
    found = [_block(seed, salt, model, number) for number in range(first, -(-stop // BLOCK))]
    joined = found[0] if len(found) == 1 else np.concatenate(found)
    return joined[start - first * BLOCK : stop - first * BLOCK]


def _block(seed: int, salt: int, model: int, number: int) -> npt.NDArray[np.uint32]:
    # NumPy keeps the streams of its bit generators from version to version.
    source = np.random.SFC64(np.random.SeedSequence((seed, salt, model, number)))
    raw: npt.NDArray[np.uint64] = source.random_raw(BLOCK // 2)
    return raw.view(np.uint32)
