"""What the system's allocator does with pieces that are given back and asked for again, over and over.

Not here: memory beyond what it keeps, which is `roster.dispatch.memory`'s.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them


@cache
def keep_pieces() -> None:
    """Tells the GNU allocator to keep what is freed and will be asked for again, from now on in this process.

    By itself it returns what is free at the end of its heap, more than 128 KB at first and 64 MB at most, and whether
    pieces lie there is chance: where they do, their pages are fetched anew and cleared by the system every time, which
    took as long as the whole routing of a training step, and up to two thirds of a merge. Whoever has set the allocator
    by the environment is left alone.
    """
    if platform.libc_ver()[0] == "glibc" and not any(name.startswith("MALLOC_") for name in os.environ):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 2**25)
        libc.mallopt(_TRIM_THRESHOLD, 2**30)
