"""Who learns from what, how the dial is set, and what the intervals mean.

Five folds. A rung learns from four of them; the fifth is halved, the dial is set on one half's recorded scores and read
on the other, and the other way round. So every prompt is judged once, by a rung that has not learned from it, at a
setting that was chosen without it. A reading is held to a cost: the mean cost of a model drawn at random, and a half
and a quarter of it. The share of a mix follows from costs, which need no label.

Intervals are of a bootstrap over prompts, the same draws for all rungs of a collection; those of the rungs' differences
from the look-up hold together (`roster.lm.ruler.together`), so that trying many rungs makes none of them better.

Shape legend: N prompts, L settings, S shares of the cost of random, B weightings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roster.lm.curve import Played, corners, interval, resamples
from roster.lm.dial import within
from roster.lm.judging import complete
from roster.lm.play import best_single, dial, play
from roster.lm.records import Matrix, Records
from roster.lm.routing import Routing
from roster.lm.ruler import together

FOLDS, DRAWS = 5, 2000
SHARES = (1.0, 0.5, 0.25)


class Contender(Protocol):
    """What a rung is made of."""

    def fit(self, records: Records) -> Contender:
        """Learns from scores, costs and, where a rung reads them, answers."""

    def settings(self, records: Records) -> Sequence[Any]:
        """Its dial, from what prompts like these suggest; no score is read."""

    def play(self, records: Records, settings: Sequence[Any]) -> Played:
        """What every setting does on these prompts."""


@dataclass
class Router:
    """Any routing as a contender."""

    routing: Routing

    def fit(self, records: Records) -> Router:
        """See `Contender`."""
        self.routing.fit(records)
        return self

    def settings(self, records: Records) -> Sequence[Any]:
        """See `Contender`."""
        return dial(self.routing, records)

    def play(self, records: Records, settings: Sequence[Any]) -> Played:
        """See `Contender`."""
        return play(self.routing, records, timed=False, rules=settings).played


def folds(records: Records, seed: int = 0) -> list[tuple[NDArray[np.bool_], tuple[NDArray[np.int64], ...]]]:
    """Of each fold: which prompts it learns from, and the two halves of the others; alike within every data set."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(records))
    order = order[np.argsort([records.datasets[n] for n in order], kind="stable")]
    part_N = np.empty(len(records), dtype=int)
    part_N[order] = np.arange(len(records)) % (2 * FOLDS)
    return [
        (part_N // 2 != fold, (np.flatnonzero(part_N == 2 * fold), np.flatnonzero(part_N == 2 * fold + 1)))
        for fold in range(FOLDS)
    ]


def judge(
    make: Callable[[Records], Contender], records: Records, progress: Callable[[str], None]
) -> tuple[Matrix, Matrix]:
    """(score, cost) of every prompt at every share of the cost of random, [S, N]; NaN where no setting is so cheap.

    Args:
        make: a contender, unfitted, for the learning prompts of a fold.
        records: `complete`.
        progress: told what happens.
    """
    score_SN, cost_SN = (np.full((len(SHARES), len(records)), np.nan) for _ in range(2))
    for fold, (learn_N, halves) in enumerate(folds(records)):
        progress(f"fold {fold + 1} of {FOLDS}")
        learn = records.rows(learn_N)
        contender = make(learn).fit(learn)
        for here, there in (halves, halves[::-1]):
            chosen, read = records.rows(here), records.rows(there)
            settings = contender.settings(chosen)
            before, after = contender.play(chosen, settings), contender.play(read, settings)
            corner_P = corners(before.cost_LN.mean(1), before.score_LN.mean(1), before.mixes)
            for s, share in enumerate(SHARES):
                budget = share * float(read.cost_NM.mean())
                setting = within(corner_P, after.cost_LN.mean(1), budget, after.mixes)
                if setting is not None:
                    score_SN[s, there], cost_SN[s, there] = setting.of(after.score_LN), setting.of(after.cost_LN)
    return score_SN, cost_SN


def single(records: Records) -> tuple[Matrix, Matrix]:
    """(score, cost) of the best single model whatever it costs, chosen on each fold's learning prompts, [N]."""
    score_N, cost_N = np.empty(len(records)), np.empty(len(records))
    for learn_N, halves in folds(records):
        at = np.concatenate(halves)
        read = records.rows(at)
        m = read.column(best_single(records.rows(learn_N), read)[0])
        score_N[at], cost_N[at] = read.score_NM[:, m], read.cost_NM[:, m]
    return score_N, cost_N


def figure(value: float, low: float, high: float) -> dict[str, float]:
    """A value with its interval, as it is stored."""
    return {"value": value, "low": low, "high": high}


def compare(found: dict[str, tuple[Matrix, Matrix]], records: Records, rungs: Sequence[str]) -> dict[str, Any]:
    """All rungs of a collection beside the look-up and the best single model.

    Args:
        found: (score, cost) [S, N] of each contender, "lookup" among them.
        records: the same prompts.
        rungs: those that are routers without a label: their intervals hold together.
    """
    weight_BN = np.vstack([np.full(len(records), 1 / len(records)), resamples(len(records), DRAWS)])
    best_N, dear_N = single(records)
    result: dict[str, Any] = {"single": {"quality": best_N.mean(), "cost": dear_N.mean()}, "shares": {}}
    for s, share in enumerate(SHARES):
        able = [slug for slug in found if np.isfinite(found[slug][0][s]).all()]
        over_SB = {slug: weight_BN @ (found[slug][0][s] - found["lookup"][0][s]) for slug in able}
        ours = [slug for slug in able if slug in rungs]
        joint = dict(zip(ours, together([over_SB[slug] for slug in ours]), strict=True))
        rows = {}
        for slug in able:
            score_N, cost_N = found[slug][0][s], found[slug][1][s]
            beside_B = weight_BN @ (score_N - best_N)
            over = joint.get(slug)
            rows[slug] = {
                "quality": figure(score_N.mean(), *interval(weight_BN[1:] @ score_N)),
                "over_lookup": figure(over_SB[slug][0], *interval(over_SB[slug][1:])),
                "over_lookup_together": figure(over.value, over.low, over.high) if over else None,
                "over_single": figure(beside_B[0], *interval(beside_B[1:])),
                "cost_of_single": cost_N.mean() / dear_N.mean(),
            }
        result["shares"][str(share)] = rows
    return result


__all__ = ["SHARES", "Contender", "Router", "compare", "complete", "folds", "judge"]
