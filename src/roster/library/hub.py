"""Adapters by their name on the Hugging Face hub: only the files of an adapter are fetched, and never a pickle."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from roster.errors import RosterError
from roster.library.keeping import CARRIED

_NAME = re.compile(r"(?:hf:)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def names_hub(text: str) -> bool:
    """Whether a text names an adapter on the hub ("org/name", "org/name@revision") and no folder of this machine."""
    return bool(_NAME.fullmatch(text)) and not Path(text).exists()


def fetch(text: str) -> tuple[Path, str]:
    """(an adapter's folder in the hub's cache, the name that it has there without its owner's).

    Raises:
        RosterError: no such repository, or no connection.
    """
    told = _NAME.fullmatch(text)
    if told is None:
        raise RosterError(f"{text!r} is not the name of a repository on the hub, such as org/name or org/name@revision")
    try:
        path = snapshot_download(told["repo"], revision=told["revision"], allow_patterns=list(CARRIED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise RosterError(
            f"{text!r} is no folder here, and cannot be fetched from the hub: {str(error).strip().splitlines()[0]}"
        ) from None
    return Path(path), told["repo"].rpartition("/")[2]
