"""Recorded answers of real models: the figures come with roster, the texts are fetched. One collection a file.

figures, sources   what comes along; what is pinned, with licence and hashes
places, texts      where the texts of others are looked for; reading and checking them
fetching           downloading them (`roster lm fetch`)
"""

from __future__ import annotations

from collections.abc import Callable

from roster.errors import RosterError, nearest
from roster.lm.data import llmrouter, routellm, smoothie, zeroeval
from roster.lm.records import Records

LOADERS: dict[str, Callable[[bool], Records]] = {
    "llmrouter": llmrouter.load,
    "routellm-gsm8k": routellm.gsm8k,
    "routellm-mmlu": routellm.mmlu,
    "routellm-mt-bench": routellm.mt_bench,
    "zeroeval": zeroeval.priced,
    "zeroeval-crux": zeroeval.crux,
    "zeroeval-gsm8k": zeroeval.gsm8k,
    "smoothie-cnn": smoothie.load,
}


def load(name: str, texts: bool = True) -> Records:
    """The records of that name.

    Args:
        name: one of LOADERS.
        texts: with the texts of prompts and answers; without them prompts are numbered, which is enough for whatever
            reads scores, costs and data sets only.

    Raises:
        RosterError: there are no such data, with the nearest names; or their texts are not on this machine, with the
            command that fetches them.
    """
    if name not in LOADERS:
        raise RosterError(f"no recorded data are called {name!r}: {nearest(name, LOADERS)}")
    return LOADERS[name](texts)
