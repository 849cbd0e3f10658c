"""Simulated models on real prompts: every chance to be right is known, so routers are judged by expectation.

Prompts are those of six of LLMRouter's data sets, here called kinds. A model is right on a prompt of a kind with that
kind's chance; what a router learns from is one draw of right or wrong per prompt and model. A call costs the model's
price times the prompt's length in hundreds of tokens.

Shape legend: N prompts, K kinds, M models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from roster.lm import data
from roster.lm.prices import tokens
from roster.lm.records import Matrix, Records
from roster.lm.routing import Routing

KINDS = ("natural_qa", "gsm8k", "mbpp", "commonsense_qa", "math", "arc_challenge")
JUDGE = 120
"""Prompts of each kind that no router learns from."""


@dataclass(frozen=True)
class World:
    """Models whose worth is known.

    Attributes:
        chance_KM: to be right.
        price_M: of a hundred tokens of prompt.
        seed: of which prompts are learned from, and of what was right.
    """

    chance_KM: Matrix
    price_M: Matrix
    seed: int

    @property
    def models(self) -> tuple[str, ...]:
        """Names."""
        return tuple(f"model-{m}" for m in range(len(self.price_M)))

    def learn(self, per_kind: int) -> Records:
        """Records to learn from; more prompts per kind include those of fewer."""
        return self._records(lambda asked: asked[JUDGE : JUDGE + per_kind], np.random.default_rng([self.seed, 1]))

    def judge(self, kinds: tuple[str, ...] = KINDS) -> Records:
        """Records of other prompts, whose scores are the chances themselves."""
        made = self._records(lambda asked: asked[:JUDGE], None)
        return made.rows(np.array([kind in kinds for kind in made.datasets]))

    def _records(self, part, rng: np.random.Generator | None) -> Records:
        asked = {kind: part(_shuffled(kind, self.seed)) for kind in KINDS}
        prompts = tuple(prompt for kind in KINDS for prompt in asked[kind])
        kind_N = np.concatenate([np.full(len(asked[kind]), k) for k, kind in enumerate(KINDS)])
        chance_NM = self.chance_KM[kind_N]
        # One number per prompt and model, drawn for as many as there can be: more prompts change no earlier draw.
        score_NM = chance_NM
        if rng is not None:
            most = max(len(_asked(kind)) for kind in KINDS)
            drawn_KNM = rng.random((len(KINDS), most, len(self.price_M)))
            place_N = np.concatenate([np.arange(len(asked[kind])) for kind in KINDS])
            score_NM = (drawn_KNM[kind_N, place_N] < chance_NM).astype(float)
        length_N = np.array([tokens(prompt) for prompt in prompts])
        return Records(
            name="simulated models",
            prompts=prompts,
            models=self.models,
            score_NM=score_NM,
            cost_NM=length_N[:, None] / 100 * self.price_M,
            delay_NM=np.full(score_NM.shape, np.nan),
            datasets=tuple(KINDS[k] for k in kind_N),
            splits=("test" if rng is None else "train",) * len(prompts),
        )


def uneven(seed: int, models: int = 6) -> World:
    """Models that are better the dearer they are, on the whole: one deviation either way from kind to kind.

    With levels from -0.8 to 1.0, as first tried, one model was the best for five kinds of six, and there was nothing
    to route.
    """
    rng = np.random.default_rng([seed, 0])
    level_M = np.linspace(-0.4, 0.4, models)
    chance_KM = 1 / (1 + np.exp(-(level_M + rng.normal(0, 1, (len(KINDS), models)))))
    return World(chance_KM, np.geomspace(0.01, 0.3, models), seed)


def choices(routing: Routing, judge: Records) -> Matrix:
    """What a fitted routing chooses, as positions among the judge's models, [N]."""
    estimates = routing.estimator.estimate(judge.prompts)
    column_M = np.array([judge.column(name) for name in estimates.models])
    return column_M[routing.rule.choose(estimates)]


def mean_of(matrix_NM: Matrix, chosen_N: Matrix) -> float:
    """Mean over the prompts of the chosen models' cells."""
    return float(matrix_NM[np.arange(len(matrix_NM)), chosen_N].mean())


@cache
def _asked(kind: str) -> tuple[str, ...]:
    records = data.load("llmrouter")
    return tuple(prompt for prompt, name in zip(records.prompts, records.datasets, strict=True) if name == kind)


def _shuffled(kind: str, seed: int) -> list[str]:
    return np.random.default_rng([seed, 2]).permutation(_asked(kind)).tolist()
