"""Recorded answers of real models, each with its licence and SOURCE.txt beside it. One collection a file."""

from __future__ import annotations

from collections.abc import Callable

from roster.errors import RosterError, nearest
from roster.lm.data import llmrouter, routellm, smoothie, zeroeval
from roster.lm.records import Records

LOADERS: dict[str, Callable[[], Records]] = {
    "llmrouter": llmrouter.load,
    "routellm-gsm8k": routellm.gsm8k,
    "routellm-mmlu": routellm.mmlu,
    "routellm-mt-bench": routellm.mt_bench,
    "zeroeval": zeroeval.priced,
    "zeroeval-crux": zeroeval.crux,
    "zeroeval-gsm8k": zeroeval.gsm8k,
    "smoothie-cnn": smoothie.load,
}


def load(name: str) -> Records:
    """The records of that name; RosterError with the nearest names when there are none."""
    if name not in LOADERS:
        raise RosterError(f"no recorded data are called {name!r}: {nearest(name, LOADERS)}")
    return LOADERS[name]()
