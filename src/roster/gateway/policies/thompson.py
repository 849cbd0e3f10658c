"""thompson: learns online which model answers which prompts well, by linear Thompson sampling on prompt features.

For every model m a Bayesian linear regression (`roster.lm.online.belief`) of the score on the features f of a prompt.
With A = l I + sum f f' and b = sum f s over the scores s - p given to m's answers, and p the prior guess,

    mean_m = p + f' A^-1 b        deviation_m = v sqrt(f' A^-1 f)

the policy draws utility_m ~ N(mean_m, deviation_m^2) - w cost_m and takes the largest. Drawing the utility is the same
as drawing the weights, as only f' weights is used, and needs no factorisation.

Features: counts of words hashed to D - 1 places with signs, scaled to length one, and a constant.

Source: S. Agrawal, N. Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs" (ICML 2013), arXiv
1209.3352. Differs: a separate regression per model, costs subtracted, and v is an option instead of a bound's value.

Shape legend: D features, M models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from roster.errors import RosterError
from roster.gateway.config import Amount, Model, Price, Strict
from roster.gateway.policies.base import Untrained, prices_of
from roster.gateway.prices import estimate
from roster.lm.online.belief import Belief
from roster.lm.policy import Decision

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
_NODE_WEIGHTS = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()


class Thompson(Untrained):
    """Linear Thompson sampling.

    Args:
        name: what clients call it.
        models: whom to choose among.
        prices: per model.
        options: see `Options`.
    """

    class Options(Strict):
        """What the config may say.

        Attributes:
            models: whom to choose among; by default all.
            features: D, the length of a prompt's features.
            cost_weight: how much quality one unit of currency is worth.
            exploration: v, the width of the draw.
            ridge: l, how strongly the prior guess holds.
            prior: p, the score expected of a model that nobody has rated.
            seed: of the draw; none: different at every start.
        """

        models: tuple[str, ...] | None = Field(default=None, min_length=1, strict=False)
        features: Annotated[int, Field(ge=2, le=1024)] = 64
        cost_weight: Amount = 0.0
        exploration: Annotated[float, Field(ge=0, le=10)] = 0.3
        ridge: Annotated[float, Field(gt=0, le=1e6)] = 1.0
        prior: Annotated[float, Field(ge=0, le=1)] = 0.5
        seed: Annotated[int, Field(ge=0)] | None = None

    def __init__(self, name: str, models: tuple[str, ...], prices: Mapping[str, Price], options: Options) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        super().__init__(name, models)
        self.prices, self.options = prices, options
        self._rng = np.random.default_rng(options.seed)
        self._words = HashingVectorizer(n_features=options.features - 1, norm="l2")
        self._beliefs = {model: self._new() for model in models}

    def _new(self) -> Belief:
        return Belief(self.options.features, self.options.ridge, self.options.prior)

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """From the config's options."""
        models = options.models or tuple(known)
        return cls(name, models, prices_of(models, known), options)

    def features(self, prompt: str) -> np.ndarray:
        """`[D]` of a prompt."""
        words = self._words.transform([prompt]).toarray()[0]
        return np.append(words, 1.0)

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """Draws a utility for each model and takes the largest."""
        left = self.left(exclude)
        features_D = self.features(prompt)
        means_M = np.array([self._mean(model, features_D) for model in left])
        widths_M = np.array([self._width(model, features_D) for model in left])
        costs_M = np.array([estimate(self.prices[model], prompt, max_tokens) for model in left])
        worth_M = means_M - self.options.cost_weight * costs_M
        drawn = int(np.argmax(self._rng.normal(worth_M, widths_M)))
        usual = int(np.argmax(worth_M))
        return Decision(
            left[drawn],
            "best so far" if drawn == usual else f"tried instead of {left[usual]}",
            quality=float(np.clip(means_M[drawn], 0.0, 1.0)),
            cost=float(costs_M[drawn]),
            quality_by_model={model: float(np.clip(mean, 0.0, 1.0)) for model, mean in zip(left, means_M, strict=True)},
            propensity=_chance_of_largest(worth_M, widths_M, drawn),
        )

    def _mean(self, model: str, features_D: np.ndarray) -> float:
        return float(self._beliefs[model].mean(features_D))

    def _width(self, model: str, features_D: np.ndarray) -> float:
        return self.options.exploration * float(self._beliefs[model].width(features_D))

    def feedback(self, prompt: str, decision: Decision, score: float) -> None:
        """One more observation of the decision's model."""
        if decision.model not in self._beliefs:
            raise RosterError(f"the policy {self.name!r} does not know the model {decision.model!r}")
        self._beliefs[decision.model].observe(self.features(prompt), score)

    def state(self) -> bytes:
        """All regressions, as safetensors."""
        inverses = {f"inverse.{model}": belief.inverse_DD for model, belief in self._beliefs.items()}
        return save(inverses | {f"target.{model}": belief.target_D for model, belief in self._beliefs.items()})

    def restore(self, state: bytes) -> None:
        """Takes back the models that are still there; new ones start anew.

        Raises:
            RosterError: this is no state of this policy, or one with other `features`.
        """
        try:
            kept = load(state)
        except SafetensorError:
            raise RosterError(f"what was kept for the policy {self.name!r} is no state of it") from None
        size = self.options.features
        for model in self.models:
            belief = self._new()
            inverse = kept.get(f"inverse.{model}", belief.inverse_DD)
            target = kept.get(f"target.{model}", belief.target_D)
            if inverse.shape != (size, size) or target.shape != (size,):
                raise RosterError(
                    f"the policy {self.name!r} has learned with {len(target)} features and now has {size}: "
                    "set `features` back, or give the policy a new name"
                )
            belief.inverse_DD, belief.target_D = inverse, target
            self._beliefs[model] = belief


def _chance_of_largest(means_M: np.ndarray, widths_M: np.ndarray, at: int) -> float:
    """The probability that the draw of one of several independent normal variables is the largest.

    By Gauss-Hermite quadrature over its own draw: the product of the others' distribution functions.
    """
    others = [other for other in range(len(means_M)) if other != at]
    if not others:
        return 1.0
    widths_M = np.maximum(widths_M, 1e-12)  # without exploration the largest mean is certain
    drawn = means_M[at] + widths_M[at] * _NODES
    chance = np.ones_like(drawn)
    for other in others:
        standard = (drawn - means_M[other]) / (widths_M[other] * math.sqrt(2.0))
        chance *= [0.5 * (1.0 + math.erf(each)) for each in standard]
    return float(np.clip(chance @ _NODE_WEIGHTS, 0.0, 1.0))
