"""Which examples of an adapter are worded alike: what a cross-validation must not tear apart.

Users' examples are often a few sentences with different words filled in. Held-out examples of a sentence that others
were seen of say nothing of prompts in other words, so whole wordings are held out where they can be told apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from roster.prompts import Prompt, words

_WORD = re.compile(r"\w+|[^\w\s]")
_SHARE, _LEAST = 0.1, 3
"""A word belongs to a wording when at least this share of the examples, and so many, have it."""


def wordings(prompts: Sequence[Prompt]) -> list[int]:
    """A number per prompt, the same for prompts that differ in rare words only; all different where that says nothing.

    Args:
        prompts: of one adapter.
    """
    split = [_WORD.findall(words(prompt).lower()) for prompt in prompts]
    seen = Counter(word for each in split for word in set(each))
    least = max(_LEAST, _SHARE * len(prompts))
    frames = [tuple(word for word in each if seen[word] >= least) for each in split]
    numbers = {frame: number for number, frame in enumerate(dict.fromkeys(frames))}
    if not 1 < len(numbers) <= len(prompts) / 2:
        return list(range(len(prompts)))
    return [numbers[frame] for frame in frames]


def folds(owners: Sequence[int], prompts: Sequence[Prompt], count: int) -> list[int]:
    """The fold of each prompt: whole wordings go together, and every adapter's are spread over the folds.

    Args:
        owners: whose example each prompt is.
        prompts: all of them.
        count: of folds.
    """
    at: dict[int, list[int]] = {}
    for place, owner in enumerate(owners):
        at.setdefault(owner, []).append(place)
    found = [0] * len(prompts)
    for places in at.values():
        for place, wording in zip(places, wordings([prompts[each] for each in places]), strict=True):
            found[place] = wording % count
    return found
