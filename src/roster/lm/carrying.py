"""Whether a log with gaps carries what is said of a router: its support at the setting that is judged.

What each setting of a router does is played once more with other matrices in the place of the scores, so that this
needs to know nothing of routers, rules and mixes.

Shape legend: N prompts, M models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from roster.lm.dial import Setting
from roster.lm.offpolicy.counterfactual import Counterfactual, enough
from roster.lm.offpolicy.estimators import support
from roster.lm.play import Run
from roster.lm.records import Matrix, Records
from roster.lm.results import Carried


def carried_at(
    settings: Mapping[str, Setting | None], players: Mapping[str, Callable[[Records], Run]], test: Records
) -> dict[str, Carried]:
    """The support of every router; none where no gap was filled.

    Args:
        settings: at which each is judged; None for one that cannot be had for the money.
        players: play all settings of each on some records.
        test: what they are judged on.
    """
    if not isinstance(test, Counterfactual):
        return {}
    return {slug: carry(players[slug], at, test) for slug, at in settings.items() if at is not None}


def carry(player: Callable[[Records], Run], setting: Setting, test: Counterfactual) -> Carried:
    """The support of one router at one setting, and what plainer estimators say of it."""

    def of(value_NM: Matrix) -> Matrix:
        return setting.of(player(replace(test, score_NM=value_NM)).played.score_LN)

    weight_N = of(test.weight_NM)
    found = support(weight_N, of(test.supported_NM))
    earned_N = of(test.weight_NM * np.nan_to_num(test.observed_NM))
    ips = float(earned_N.mean())
    self_normalised = ips / float(weight_N.mean()) if weight_N.any() else float("nan")
    return Carried(found, ips, self_normalised, enough(found))
