"""MasRouter: the learned cascade is near the best configuration of every type of prompt, above fixed and model-only.

Prompts of six of LLMRouter's data sets (100 of each to learn from, 100 others to judge on) are the types; all else is
simulated. Modes: alone, chain of two, debate of three. Four roles, four models. A configuration is right with chance
sigmoid(fit of the mode + mean over seats of the fits of role and model), all fits drawn per type and seed from a normal
distribution, the models' around a level that rises with price; its cost is the sum over seats of the model's price
times the role's verbosity. The controller sees one draw of right or wrong at a time. Gain is the expected utility less
the cost, at a price of one. Beside it: the best configuration for all types together, the best mode and roles for all
types with the best models for each type (model-only routing that knows the truth), and the best configuration of each
type.

Second try: at the first (learning rate 0.01, vectors of length one) seed 0 closed 59 % of the distance; rate and scale
were then chosen among four pairs at seed 100, which is not among those judged. Seeds 5 to 9 were added later, under the
same rule, since five seeds met it by a hair's breadth (81 %).

Learning plays 72,000 configurations (600 prompts, 30 passes, 4 draws), which real agents make dear: this shows what the
controller can come to know, not that it is cheap to teach.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from roster.lm import data
from roster.lm.online.cascaded import Cascaded, Configuration
from roster.lm.records import Matrix

TYPES = ("natural_qa", "gsm8k", "mbpp", "commongen", "math", "arc_challenge")
MODES = {"alone": 1, "chain": 2, "debate": 3}
ROLES = ("solver", "critic", "planner", "programmer")
MODELS = {"tiny": 0.01, "small": 0.03, "medium": 0.08, "large": 0.2}
LEARN, JUDGE, PRICE = 100, 100, 1.0


def check(seed: int) -> dict[str, float]:
    """Expected gains on prompts that were not learned from."""
    world, rng = _World(seed), np.random.default_rng([seed, 1])
    learn, judge = _prompts(seed)
    controller = Cascaded(MODES, ROLES, tuple(MODELS), seed=seed)

    def play(n: int, configuration: Configuration) -> tuple[float, float]:
        chance, cost = world.outcome(n // LEARN, configuration)
        return float(rng.random() < chance), cost

    controller.fit(learn, play, PRICE)
    chosen = controller.choose(judge)
    gains = [world.gain(n // JUDGE, configuration) for n, configuration in enumerate(chosen)]
    return {
        "gain, learned cascade": float(np.mean(gains)),
        "gain, best fixed configuration": world.fixed(),
        "gain, best model per type in the best fixed mode and roles": world.models_only(),
        "gain, best configuration per type": world.oracle(),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the cascade gains more than the best fixed configuration and than model-only routing; in the mean
    it closes at least 80 % of the distance from the fixed one to the best configuration per type."""
    closed = []
    for each in figures:
        mine, fixed = each["gain, learned cascade"], each["gain, best fixed configuration"]
        if mine <= max(fixed, each["gain, best model per type in the best fixed mode and roles"]):
            return False
        closed.append((mine - fixed) / (each["gain, best configuration per type"] - fixed))
    return float(np.mean(closed)) >= 0.8


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
