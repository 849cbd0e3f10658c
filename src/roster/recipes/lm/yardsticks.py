"""What every router among language models is held against: best single, random, static mix, look-up, oracle.

Random and the oracle are played by the report itself (`roster.lm.play`), exactly and from the recorded truth; as a
policy, random rolls dice.
"""

from __future__ import annotations

from functools import partial

from roster.lm.decide import Weights
from roster.lm.estimate import DatasetTable, Dice, Mean
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def best_single(cost_weight: float = 0.0) -> Routing:
    """One model for everything: the best by mean score less price.

    Args:
        cost_weight: quality that one unit of the currency is worth.
    """
    return Routing(Mean(), Weights(cost_weight), mixes=False)


def static_mix(cost_weight: float = 0.0) -> Routing:
    """Two models, mixed at random in the share that a budget allows; the prompt is not read.

    Args:
        cost_weight: quality that one unit of the currency is worth.
    """
    return Routing(Mean(), Weights(cost_weight))


def dataset_lookup(cost_weight: float = 0.0) -> Routing:
    """The best model for the prompt's data set, which it must be told.

    Args:
        cost_weight: quality that one unit of the currency is worth.
    """
    return Routing(DatasetTable(), Weights(cost_weight), sees_dataset=True)


def random(seed: int = 0) -> Routing:
    """Any model, equally often.

    Args:
        seed: of the dice.
    """
    return Routing(Dice(seed), Weights())


_yardstick = partial(
    Recipe,
    source="roster",
    trains="nothing",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/lm.md",
    kind="lm",
)

RECIPES = (
    _yardstick(slug="lm-best-single", title="Best single model", compose=best_single),
    _yardstick(slug="lm-static-mix", title="Cost-matched static mix of models", compose=static_mix),
    _yardstick(slug="lm-dataset-lookup", title="Data-set look-up", compose=dataset_lookup, needs=("tasks",)),
    _yardstick(slug="lm-random", title="Random model", compose=random, batch_invariant=False),
)
