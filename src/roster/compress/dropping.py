"""Dropping experts: the ones with the best scores stay as they are, the others go, with their rows of the router.

`reap`: mean over an expert's tokens of gate * norm of what it said (Lasby et al. 2025, arXiv 2510.13999).
`expert-use`: how many calibration tokens an expert was given; the plain yardstick.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from roster.compress.groups import Regrouped
from roster.compress.method import Regrouping
from roster.compress.seen import Seen


class Dropping(Regrouping):
    """Keeps the experts with the best scores."""

    def score(self, seen: Seen) -> Tensor:
        """[E]; higher stays."""
        raise NotImplementedError

    def decide(self, seen: Mapping[int, Seen]) -> dict[int, Regrouped]:
        """See `roster.compress.method.Method`."""
        return {layer: self._one(each) for layer, each in seen.items()}

    def _one(self, seen: Seen) -> Regrouped:
        score_E = self.score(seen)
        kept = sorted(best(score_E, self.kept))
        figures = {"scores": [round(each, 6) for each in score_E.tolist()], "tokens": seen.count_E.long().tolist()}
        return Regrouped.kept(kept, len(score_E), **figures)


class Reap(Dropping):
    """Router-weighted expert activation pruning.

    Source: Lasby et al. 2025, REAP the Experts, arXiv 2510.13999. An expert without tokens scores 0.
    """

    slug = "reap"

    def score(self, seen: Seen) -> Tensor:
        """Mean of gate * norm."""
        return seen.saliency_E


class ExpertUse(Dropping):
    """Dropping by use."""

    slug = "expert-use"

    def score(self, seen: Seen) -> Tensor:
        """Tokens."""
        return seen.count_E


def best(score_E: Tensor, count: int) -> list[int]:
    """The experts with the highest scores, best first; the lower number where scores are equal."""
    return score_E.argsort(descending=True, stable=True)[:count].tolist()
