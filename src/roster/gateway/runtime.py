"""What a config becomes: ways to models, policies. Made whole before it is used, and never changed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from roster.errors import RosterError, nearest
from roster.gateway.config import Config
from roster.gateway.errors import ApiError
from roster.gateway.learning import Learner
from roster.gateway.policies import build_policy
from roster.gateway.ways import Ways


class Runtime:
    """A config, ready to serve.

    Args:
        config: what the file says.
        base: the file's folder.
        before: the runtime that this one replaces; what is unchanged keeps its circuits.

    Raises:
        RosterError: a policy cannot be made.
    """

    def __init__(self, config: Config, base: Path, before: Runtime | None = None) -> None:
        self.config = config
        self.ways: Ways = Ways(config, None if before is None else before.ways)
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
        if model in self.config.models:
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
        return list(dict.fromkeys([*auto, *self.learners, *self.config.models]))

    def close(self) -> None:
        """Ends the policies' threads."""
        for learner in self.learners.values():
            learner.close()
