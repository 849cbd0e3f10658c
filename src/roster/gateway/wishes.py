"""What a request's `model` asks for: a model, a policy, one with a threshold (`auto:0.7`), or an experiment."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from roster.errors import nearest
from roster.gateway import prices
from roster.gateway.config import Experiment, Model
from roster.gateway.config_file import Config
from roster.gateway.errors import ApiError
from roster.lm.policy import Decision, Policy


@dataclass(frozen=True)
class Wish:
    """A name, understood.

    Attributes:
        policy: who decides; None: the client named the model.
        threshold: the quality, or a cascade's confidence, that is wanted; None: the policy's own.
        experiment: in which the policy was drawn.
    """

    policy: str | None
    threshold: float | None = None
    experiment: str | None = None


def understand(name: str, config: Config, key: str) -> Wish:
    """What a name asks for.

    Args:
        name: a request's `model`.
        config: what there is.
        key: whose request it is, for experiments that keep each key in one arm.

    Raises:
        ApiError: 404, there is no such name.
    """
    if name in config.models:
        return Wish(None)
    known = _named(name, config, key)
    if known is not None:
        return known
    base, mark, last = name.rpartition(":")
    threshold = _fraction(last)
    known = _named(base, config, key) if mark and threshold is not None else None
    if known is not None:
        return replace(known, threshold=threshold)
    message = f"The model {name!r} does not exist: {nearest(name, names(config))}"
    raise ApiError(404, message, "model_not_found", param="model")


def names(config: Config) -> list[str]:
    """All that a request may give as its model, thresholds aside."""
    auto = ["auto"] if config.routing.auto_policy is not None else []
    return list(dict.fromkeys([*auto, *config.routing.experiments, *config.routing.policies, *config.models]))


def _named(name: str, config: Config, key: str) -> Wish | None:
    if name == "auto" and config.routing.auto_policy is not None:
        name = config.routing.auto_policy
    if name in config.routing.experiments:
        return Wish(draw(name, config.routing.experiments[name], key), experiment=name)
    return Wish(name) if name in config.routing.policies else None


def _fraction(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def draw(name: str, experiment: Experiment, key: str) -> str:
    """An arm, by its weight: anew for each request, or for ever the same for a key."""
    total = sum(experiment.arms.values())
    at = random.random()
    if experiment.by == "key":
        at = int.from_bytes(hashlib.sha256(f"{name} {key}".encode()).digest()[:8], "big") / 2**64
    for arm, weight in experiment.arms.items():
        at -= weight / total
        if at < 0:
            return arm
    return arm


def at_least(
    decision: Decision, threshold: float, policy: Policy, exclude: Set[str], models: Mapping[str, Model], prompt: str
) -> Decision:
    """A decision changed to what a request wants: another confidence, or the cheapest model of that quality.

    Raises:
        ApiError: 400, the policy knows of no quality.
    """
    if getattr(policy, "escalate_below", None) is not None or getattr(policy, "judges", False):
        return decision if decision.escalate_below is None else replace(decision, escalate_below=threshold)
    quality = {model: value for model, value in decision.quality_by_model.items() if model not in exclude}
    if not quality:
        raise ApiError(400, f"The policy {policy.name!r} estimates no quality to set.", "no_threshold", param="model")
    good = [model for model, value in quality.items() if value >= threshold]
    if good:
        chosen = min(good, key=lambda model: prices.estimate(models[model].price, prompt, None))
        reason = f"cheapest with a quality of {threshold:g} or more"
    else:
        chosen = max(quality, key=lambda model: quality[model])
        reason = f"none has a quality of {threshold:g}; this is the best"
    return replace(
        decision, model=chosen, reason=reason, quality=quality[chosen], cost=None, propensity=1.0, escalate_below=None
    )
