"""MasRouter's claim: choosing mode, roles and models of a team for each prompt gains more than choosing models alone.

Prompts of six of LLMRouter's data sets (100 of each to learn from, 100 others to judge on) are the types; all else is
simulated. Modes: alone, chain of two, debate of three. Four roles, four models. A configuration is right with chance
sigmoid(fit of the mode + mean over seats of the fits of role and model), all fits drawn per type from a normal
distribution, the models' around a level that rises with price; its cost is the sum over seats of the model's price
times the role's verbosity. The controller sees one draw of right or wrong at a time. Gain is the expected utility less
the cost, at a price of one. The baseline knows the truth: the best mode and roles for all types together, with the best
models for each type.

Learning plays 72,000 configurations (600 prompts, 30 passes, 4 draws), which real agents make dear: this shows what the
controller can come to know, not that it is cheap to teach.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm import data
from roster.lm.online.cascaded import Cascaded, Configuration
from roster.lm.records import Matrix

TYPES = ("natural_qa", "gsm8k", "mbpp", "commongen", "math", "arc_challenge")
MODES = {"alone": 1, "chain": 2, "debate": 3}
ROLES = ("solver", "critic", "planner", "programmer")
MODELS = {"tiny": 0.01, "small": 0.03, "medium": 0.08, "large": 0.2}
LEARN, JUDGE, PRICE = 100, 100, 1.0


def _learned(blind: bool) -> Contender:
    """Expected gain on prompts that were not learned from."""

    def run(draw: Draw) -> float:
        world, rng = _World(draw.ground), np.random.default_rng([draw.luck, 1])
        learn, judge = _prompts(draw.luck)
        type_N = np.repeat(np.arange(len(TYPES)), LEARN)
        if blind:
            type_N = np.random.default_rng([draw.luck, 3]).permutation(type_N)
        controller = Cascaded(MODES, ROLES, tuple(MODELS), seed=draw.luck)

        def play(n: int, configuration: Configuration) -> tuple[float, float]:
            chance, cost = world.outcome(int(type_N[n]), configuration)
            return float(rng.random() < chance), cost

        controller.fit(learn, play, PRICE, epochs=draw.steps(30))
        chosen = controller.choose(judge)
        return float(np.mean([world.gain(n // JUDGE, configuration) for n, configuration in enumerate(chosen)]))

    return run


def _known(way: str) -> Contender:
    return lambda draw: float(getattr(_World(draw.ground), way)())


def _told(draw: Draw) -> float:
    world = _World(draw.ground)
    return world.fixed() + (world.oracle() - world.fixed()) / 3


class _World:
    """Which configuration is how good for which type, and every configuration's gain."""

    def __init__(self, seed: int):
        rng = np.random.default_rng([seed, 0])
        level_L = np.linspace(-0.6, 0.9, len(MODELS))
        self.mode_TM = rng.normal(0, 1, (len(TYPES), len(MODES)))
        self.role_TR = rng.normal(0, 1, (len(TYPES), len(ROLES)))
        self.model_TL = level_L + rng.normal(0, 0.7, (len(TYPES), len(MODELS)))
        self.price_L, self.verbosity_R = np.array(list(MODELS.values())), rng.uniform(0.5, 1.5, len(ROLES))
        # Gains of every configuration by type: per mode a table [T, ways to fill the roles, ways to fill the models].
        self.gains = [self._table(m, seats) for m, seats in enumerate(MODES.values())]

    def outcome(self, t: int, made: Configuration) -> tuple[float, float]:
        """(chance to be right, cost)."""
        roles = [ROLES.index(role) for role in made.roles]
        models = [list(MODELS).index(model) for model in made.models]
        fit = self.mode_TM[t, list(MODES).index(made.mode)]
        fit += self.role_TR[t, roles].mean() + self.model_TL[t, models].mean()
        return float(1 / (1 + np.exp(-fit))), float((self.price_L[models] * self.verbosity_R[roles]).sum())

    def gain(self, t: int, made: Configuration) -> float:
        """Expected utility less the cost."""
        chance, cost = self.outcome(t, made)
        return chance - PRICE * cost

    def fixed(self) -> float:
        """Of the configuration that is best for all types together."""
        return max(float(table.mean(0).max()) for table in self.gains)

    def models_only(self) -> float:
        """Of the best mode and roles for all types, with the best models for each."""
        return max(float(table.max(2).mean(0).max()) for table in self.gains)

    def oracle(self) -> float:
        """Of the best configuration of each type."""
        return float(np.max([table.max((1, 2)) for table in self.gains], axis=0).mean())

    def _table(self, mode: int, seats: int) -> Matrix:
        roles_PS, models_QS = _ways(len(ROLES), seats), _ways(len(MODELS), seats)
        fit_TPQ = self.mode_TM[:, mode, None, None] + self.role_TR[:, roles_PS].mean(2)[:, :, None]
        fit_TPQ = fit_TPQ + self.model_TL[:, models_QS].mean(2)[:, None]
        cost_PQ = self.verbosity_R[roles_PS] @ self.price_L[models_QS].T
        return 1 / (1 + np.exp(-fit_TPQ)) - PRICE * cost_PQ


def _ways(options: int, seats: int) -> NDArray[np.int64]:
    return np.array(list(product(range(options), repeat=seats)))


def _prompts(seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng([seed, 2])
    learn, judge = [], []
    for kind in TYPES:
        asked = rng.permutation(_asked(kind)).tolist()
        learn += asked[:LEARN]
        judge += asked[LEARN : LEARN + JUDGE]
    return learn, judge


@cache
def _asked(kind: str) -> tuple[str, ...]:
    records = data.load("llmrouter")
    return tuple(prompt for prompt, name in zip(records.prompts, records.datasets, strict=True) if name == kind)


CHECKS = (
    make_check(
        slug="masrouter",
        version=1,
        claim="Choosing mode, roles and models for each prompt gains more than choosing models alone.",
        ground="simulated: six types of recorded prompts, three modes, four roles, four models; 600 prompts to learn",
        budget="the baseline and the controls know every expected gain; the controller plays 72,000 configurations",
        contenders={
            "MasRouter": ("the learned cascade of mode, roles and models", _learned(blind=False)),
            "models only": ("the best mode and roles for all, the best models for each type", _known("models_only")),
            "blind": ("the cascade, learned from outcomes of other types of prompts", _learned(blind=True)),
            "fixed": ("the best configuration for all types together", _known("fixed")),
            "told": ("control: the best configuration of each type for a third of the prompts, else fixed", _told),
        },
        pairs=Pairs("MasRouter", "models only", "blind", "told", "fixed"),
        statistic=Statistic("expected utility less the cost", "higher", 0.02),
    ),
)
