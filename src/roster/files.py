"""Write a file so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path | str, data: bytes) -> Path:
    """Write `data` under a temporary name beside `path`, then rename it over `path`.

    Args:
        path: the file to write; missing folders are made.
        data: its whole content.

    Returns:
        `path`, as a `Path`.

    Raises:
        OSError: the folder or the file cannot be written; what was at `path` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, because a rename is atomic only within one file system; opened the plain way, because the
    # files of `tempfile` are readable by their owner alone and a report is meant to be shared.
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
