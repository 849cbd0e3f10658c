"""Downloading the texts of others: pinned commit, checked by hash, taken up where it broke off.

Files come from raw.githubusercontent.com, or from the mirror that ROSTER_DATA_URL names (the same paths below it:
OWNER/REPOSITORY/COMMIT/PATH). Where they are put is `places`; how much is done is told to whoever asks.
"""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

from roster.errors import RosterError
from roster.lm.data import figures, places, texts
from roster.lm.data.sources import PARTS, Pinned, Source, asked

MIRROR = "ROSTER_DATA_URL"
GITHUB = "https://raw.githubusercontent.com"
TIMEOUT_S, TRIES, CHUNK = 30.0, 4, 1 << 16
Progress = Callable[[str, int, int | None], None]
"""Told after each piece: the file, its bytes so far, its size (None where nobody knows)."""


def fetch(name: str, progress: Progress, again: bool = False, pause_s: float = 1.0) -> Path:
    """Puts the texts of a collection into the cache; what is there already is not downloaded again.

    Args:
        name: recorded data, such as "llmrouter".
        progress: see above.
        again: download even what is there.
        pause_s: before the second try of a file; longer before the later ones.

    Returns:
        The folder of the cache.

    Raises:
        RosterError: no such data; no connection; not enough room; or what came is not what is pinned. A file that was
            begun stays, and the next call goes on with it.
    """
    for source in asked(name):
        for file in source.files:
            to = places.cache() / source.folder_of_texts / file.path
            if again or not _is_whole(to, file):
                try:
                    _download(source, file, to, progress, pause_s)
                except OSError as error:
                    raise RosterError(
                        f"{str(to)!r} cannot be written: {error.strerror or error}; {places.CACHE} names another folder"
                    ) from None
        _check(source)
    return places.cache()


def is_here(name: str) -> bool:
    """Whether the texts behind a name of recorded data are on this machine, and are the right ones."""
    try:
        for part in PARTS.get(name, (name,)):
            _read(part)
    except RosterError:
        return False
    return True


def _read(name: str) -> None:
    if name == "smoothie-cnn":
        texts.read(name)
    else:
        figures.read(name, texts=True)


def _is_whole(path: Path, file: Pinned) -> bool:
    if not path.is_file():
        return False
    return file.sha256 is None or hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256


def _check(source: Source) -> None:
    """What has no hash of its own is known by the texts that are read from it."""
    if any(file.sha256 is None for file in source.files):
        try:
            _read(source.name)
        except RosterError:
            for file in source.files:
                (places.cache() / source.folder_of_texts / file.path).unlink(missing_ok=True)
            raise


def _download(source: Source, file: Pinned, to: Path, progress: Progress, pause_s: float) -> None:
    base = (os.environ.get(MIRROR) or GITHUB).rstrip("/")
    url = f"{base}/{source.repository}/{source.commit}/{quote(file.path)}"
    if not base.startswith(("http://", "https://")):
        raise RosterError(f"{MIRROR} is {base!r}, which is no http address")
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.{source.commit[:12]}.partial")
    for left in reversed(range(TRIES)):
        try:
            _continue(url, partial, lambda done, size: progress(file.path, done, size or file.size))
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or not left:
                raise RosterError(f"{url} answers {error.code} {error.reason}; {_instead()}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
            if not left:
                raise RosterError(f"{url} cannot be reached: {getattr(error, 'reason', error)}; {_instead()}") from None
        time.sleep(pause_s * 2 ** (TRIES - 1 - left))
    if file.sha256 is not None and hashlib.sha256(partial.read_bytes()).hexdigest() != file.sha256:
        partial.unlink()
        raise RosterError(f"what {url} sends is not the file that is pinned (sha256 {file.sha256}); {_instead()}")
    os.replace(partial, to)


def _instead() -> str:
    return (
        f"run the command again to go on where it stopped, name a mirror by {MIRROR}, "
        f"or a folder that has the texts by {places.DATA}"
    )


def _continue(url: str, partial: Path, progress: Callable[[int, int | None], None]) -> None:
    """The rest of a file behind what is there already; the whole where the server knows no ranges."""
    done = partial.stat().st_size if partial.is_file() else 0
    # No compression on the way: a range counts the bytes that are sent.
    headers = {"User-Agent": "roster", "Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # All of it was there, or more than all: the hash tells; a wrong one is begun anew by the next call.
        return progress(done, done)
    with answer:
        if answer.status != 206:
            done = 0
        length = answer.headers.get("Content-Length")
        size = done + int(length) if length else None
        with partial.open("ab" if done else "wb") as out:
            while piece := answer.read(CHUNK):
                out.write(piece)
                done += len(piece)
                progress(done, size)
    # `read` of a piece at a time ends silently where the connection does.
    if size is not None and done < size:
        raise ConnectionError(f"the connection ended after {done} of {size} bytes")
