"""What a config becomes: keys, ways to models, policies. Made whole before it is used, and never changed."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from roster.errors import RosterError, nearest
from roster.gateway.breaker import Breaker
from roster.gateway.config import Config
from roster.gateway.errors import ApiError
from roster.gateway.keys import Keyring
from roster.gateway.learning import Learner
from roster.gateway.policies import build_policy
from roster.gateway.upstreams import Target


class Runtime:
    """A config, ready to serve.

    Args:
        config: what the file says.
        base: the file's folder.
        before: the runtime that this one replaces; what is unchanged keeps its breakers.

    Raises:
        RosterError: a policy cannot be made.
    """

    def __init__(self, config: Config, base: Path, before: Runtime | None = None) -> None:
        self.config = config
        self.keyring = Keyring(config.keys)
        self.breakers = {
            name: _kept_breaker(name, config, before) or Breaker(upstream.breaker.failures, upstream.breaker.cooldown)
            for name, upstream in config.upstreams.items()
        }
        self.targets = {
            name: Target(name, model, config.upstreams[model.upstream], self.breakers[model.upstream])
            for name, model in config.models.items()
        }
        self.in_flight: Counter[str] = Counter() if before is None else before.in_flight
        self.learners: dict[str, Learner] = {}
        try:
            for name, options in config.policies.items():
                self.learners[name] = Learner(partial(build_policy, name, options, config.models, base))
        except RosterError:
            self.close()
            raise

    def policy_name(self, model: str) -> str | None:
        """The policy that a request's model name asks for; None for a model.

        Raises:
            ApiError: 404, there is no such name.
        """
        if model in self.targets:
            return None
        if model == "auto" and self.config.auto_policy is not None:
            return self.config.auto_policy
        if model in self.learners:
            return model
        raise ApiError(
            404,
            f"The model {model!r} does not exist: {nearest(model, self.names)}",
            "model_not_found",
            param="model",
        )

    @property
    def names(self) -> list[str]:
        """All that a request may give as its model."""
        auto = ["auto"] if self.config.auto_policy is not None else []
        return list(dict.fromkeys([*auto, *self.learners, *self.targets]))

    @property
    def resting(self) -> set[str]:
        """Models whose upstream is left alone for the moment."""
        return {name for name, target in self.targets.items() if target.breaker.wait > 0}

    def close(self) -> None:
        """Ends the policies' threads."""
        for learner in self.learners.values():
            learner.close()


def _kept_breaker(name: str, config: Config, before: Runtime | None) -> Breaker | None:
    unchanged = before is not None and before.config.upstreams.get(name) == config.upstreams[name]
    return before.breakers[name] if unchanged and before is not None else None
