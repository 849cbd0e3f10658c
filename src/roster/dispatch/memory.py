"""Fresh memory for results as large as all experts together.

The first touch of a page costs far more than the arithmetic that writes it: 134 MB that are allocated anew take about
ten times as long to fill as 134 MB that are there. Huge pages, where the system leaves that choice to the program,
cut the number of first touches by 512.
"""

from __future__ import annotations

import ctypes
import functools
import mmap

from torch import Tensor

WORTHWHILE = 4 << 20  # bytes: two huge pages
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)


def fresh(*shape: int, like: Tensor) -> Tensor:
    """`like.new_empty(shape)`, on huge pages if it is large and the system has them."""
    out = like.new_empty(shape)
    size = out.numel() * out.element_size()
    if size >= WORTHWHILE and out.device.type == "cpu" and (advise := _madvise()) is not None:
        page = mmap.PAGESIZE
        start = -(-out.data_ptr() // page) * page
        end = (out.data_ptr() + size) // page * page
        advise(start, end - start, _ADVICE)  # Only advice: a system that does not take it changes nothing.
    return out


@functools.cache
def _madvise() -> ctypes._NamedFuncPointer | None:
    if _ADVICE is None:
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # no such function in this C library
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
