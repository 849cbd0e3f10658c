"""What a config becomes: ways to models, policies. Made whole before it is used, and never changed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from roster.errors import RosterError
from roster.gateway.config_file import Config
from roster.gateway.counting import read_tokenizer
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
        RosterError: a policy cannot be made, or a tokenizer cannot be read.
    """

    def __init__(self, config: Config, base: Path, before: Runtime | None = None) -> None:
        self.config = config
        self.ways: Ways = Ways(config, None if before is None else before.ways)
        self.learners: dict[str, Learner] = {}
        self.tokenizers = {
            name: read_tokenizer(base / model.tokenizer)
            for name, model in config.models.items()
            if model.tokenizer is not None
        }
        try:
            for name, options in config.routing.policies.items():
                self.learners[name] = Learner(partial(build_policy, name, options, config.models, base))
        except RosterError:
            self.close()
            raise

    def close(self) -> None:
        """Ends the policies' threads."""
        for learner in self.learners.values():
            learner.close()
