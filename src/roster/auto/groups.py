"""Adapters that example prompts cannot tell apart: copies, retrained or half-trained versions, two of one skill.

Kept apart, they would halve each other's probabilities, and what is chosen among them would be chance. So they are one
class; which of them stands for it is found out elsewhere (`roster.auto.duels`).

Shape legend: C classes, E experts, N examples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

ALIKE = 0.5
"""Share of common examples from which on two adapters are one class."""
CONFUSED, LEAST = 0.5, 0.1
"""Two classes are one when, on both sides, the share of examples taken for the other's is at least this much of the
share taken for their own, and at least so much of all."""


def alike(texts: Sequence[Sequence[str]]) -> list[int]:
    """The class of each expert, by the examples that they share; numbered in the order of the first members.

    Args:
        texts: the example prompts of each expert.
    """
    keys: dict[frozenset[str], list[int]] = defaultdict(list)
    for expert, own in enumerate(texts):
        keys[frozenset(own)].append(expert)
    sets, members = list(keys), list(keys.values())
    holders: dict[str, list[int]] = defaultdict(list)
    for number, each in enumerate(sets):
        for text in each:
            holders[text].append(number)
    shared = Counter(pair for numbers in holders.values() for pair in combinations(numbers, 2))
    pairs = [(a, b) for (a, b), n in shared.items() if n >= ALIKE * min(len(sets[a]), len(sets[b]))]
    found = [0] * len(texts)
    for number, root in enumerate(_roots(len(sets), pairs)):
        for expert in members[number]:
            found[expert] = root
    return renumbered(found)


def confused(scores_NC: Tensor, class_N: Tensor) -> list[int]:
    """The class that each class belongs to, once those that are taken for one another are joined.

    Args:
        scores_NC: held out item by item: a wording that nobody has seen may be taken for anybody's.
        class_N: of each example.
    """
    C = scores_NC.shape[1]
    taken_CC = torch.bincount(class_N * C + scores_NC.argmax(1), minlength=C * C).view(C, C).float()
    taken_CC /= taken_CC.sum(1, keepdim=True).clamp_min(1)
    as_own_CC = (taken_CC >= CONFUSED * taken_CC.diagonal()[:, None]) & (taken_CC >= LEAST)
    return renumbered(_roots(C, (as_own_CC & as_own_CC.T).triu(1).nonzero().tolist()))


def renumbered(numbers: Sequence[int]) -> list[int]:
    """0, 1, 2, ... in the order of first appearance."""
    order = {number: at for at, number in enumerate(dict.fromkeys(numbers))}
    return [order[number] for number in numbers]


def _roots(count: int, pairs: Sequence[Sequence[int]]) -> list[int]:
    """The smallest number that each one is connected with."""
    root = list(range(count))

    def find(at: int) -> int:
        while root[at] != at:
            root[at] = at = root[root[at]]
        return at

    for a, b in pairs:
        low, high = sorted((find(a), find(b)))
        root[high] = low
    return [find(at) for at in range(count)]
