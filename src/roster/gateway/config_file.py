"""The gateway's config file as a whole: its keys, in groups that belong together, and what must agree among them.

In the file every key stands at the top, whatever group it is in here. The parts are in `config.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from roster.errors import nearest
from roster.gateway.config import (
    LOOPBACK,
    Cache,
    Experiment,
    Key,
    Limits,
    Listen,
    Model,
    Name,
    Secret,
    Shadow,
    Strict,
    Team,
    Upstream,
)


class Routing(Strict):
    """Who is asked.

    Attributes:
        policies: options of each, with its `kind`; checked by the policy itself.
        auto: the policy that the model name `auto` stands for; needless when there is only one, or one called auto.
        experiments: policies that share requests; their names may be asked for like a policy's, or stand behind `auto`.
        shadows: policies that are tried unseen.
    """

    policies: dict[Name, dict[str, Any]] = Field(default={})
    auto: str | None = None
    experiments: dict[Name, Experiment] = Field(default={})
    shadows: dict[Name, Shadow] = Field(default={})

    @model_validator(mode="after")
    def _agree(self) -> Routing:
        named = [*self.policies, *self.experiments]
        if self.auto is not None and self.auto not in named:
            raise ValueError(f"auto: there is no policy {self.auto!r}: {nearest(self.auto, named)}")
        if self.auto is not None and "auto" in self.policies and self.auto != "auto":
            raise ValueError("auto: there is a policy called `auto` as well; rename it or leave the key out")
        for name, experiment in self.experiments.items():
            if name in self.policies or name == "auto":
                raise ValueError(f"experiments.{name}: the name is taken")
            _check_policies(f"experiments.{name}.arms", experiment.arms, self.policies)
        for name, shadow in self.shadows.items():
            if name in self.experiments:
                raise ValueError(f"shadows.{name}: there is an experiment of this name")
            _check_policies(f"shadows.{name}", (shadow.of, shadow.policy), self.policies)
        return self

    @property
    def auto_policy(self) -> str | None:
        """The name of the policy behind `auto`; None where nothing says which."""
        if self.auto is not None or "auto" in self.policies:
            return self.auto or "auto"
        return next(iter(self.policies)) if len(self.policies) == 1 else None


class Access(Strict):
    """Who may ask.

    Attributes:
        keys: by the owner's name; none here, no `admin` and none issued: everybody may ask.
        teams: the budgets that keys share, by name.
        admin: the key to /admin, where keys are issued and spending is shown; None: there is no /admin.
        allow_anonymous: must be said aloud to have no keys on an address that is not loopback.
    """

    keys: dict[Name, Key] = Field(default={})
    teams: dict[Name, Team] = Field(default={})
    admin: Secret | None = None
    allow_anonymous: bool = False

    @model_validator(mode="after")
    def _agree(self) -> Access:
        for name, key in self.keys.items():
            if key.team is not None and key.team not in self.teams:
                raise ValueError(f"keys.{name}.team: there is no team {key.team!r}: {nearest(key.team, self.teams)}")
        return self


class Keeping(Strict):
    """What is kept of calls, and where.

    Attributes:
        store: sqlite:///path (relative to the config file) or postgresql://...
        cache: the bounds of answers that are given again.
        traces: send OpenTelemetry spans to where its own variables say.
        log_prompts: keep the prompts' text in the store.
    """

    store: str = "sqlite:///gateway.db"
    cache: Cache = Cache()
    traces: bool = False
    log_prompts: bool = False

    @field_validator("store")
    @classmethod
    def _known_store(cls, url: str) -> str:
        if not url.startswith(("sqlite:///", "postgresql://", "postgres://")):
            raise ValueError("must be sqlite:///path or postgresql://user@host/database")
        return url


class Config(Strict):
    """The whole file.

    Attributes:
        listen: where the gateway is reached.
        upstreams, models: whom it asks, by name.
        routing, access, keeping: groups, whose keys stand at the top of the file.
        limits: what a request may ask.
    """

    groups: ClassVar[Mapping[str, type[Strict]]] = {"routing": Routing, "access": Access, "keeping": Keeping}

    listen: Listen = Listen()
    upstreams: Annotated[dict[Name, Upstream], Field(min_length=1)]
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    routing: Routing = Routing()
    access: Access = Access()
    keeping: Keeping = Keeping()
    limits: Limits = Limits()

    @model_validator(mode="before")
    @classmethod
    def _grouped(cls, written: Any) -> Any:
        """Puts the file's keys into their groups; a group's own name is no key of the file."""
        if not isinstance(written, Mapping):
            return written
        for group in cls.groups:
            if group in written:
                raise ValueError(f"{group}: unknown key: what belongs to it stands at the top of the file")
        inner = {key: group for group, fields in cls.groups.items() for key in fields.model_fields}
        grouped: dict[Any, Any] = {key: value for key, value in written.items() if key not in inner}
        for key, group in inner.items():
            if key in written:
                grouped.setdefault(group, {})[key] = written[key]
        return grouped

    @model_validator(mode="after")
    def _agree(self) -> Config:
        routing, access = self.routing, self.access
        for name, model in self.models.items():
            for upstream in model.upstreams:
                if upstream not in self.upstreams:
                    known = nearest(upstream, self.upstreams)
                    raise ValueError(f"models.{name}.upstream: there is no upstream {upstream!r}: {known}")
            if len(set(model.upstreams)) < len(model.upstreams):
                raise ValueError(f"models.{name}.upstream: a name is given twice")
        if both := sorted(self.models.keys() & routing.policies.keys()):
            raise ValueError(f"{both[0]!r} is the name of a model and of a policy")
        if "auto" in self.models:
            raise ValueError("models.auto: the name `auto` is taken by the policy")
        if both := sorted(self.models.keys() & routing.experiments.keys()):
            raise ValueError(f"experiments.{both[0]}: the name is taken")
        anonymous = not access.keys and access.admin is None and not access.allow_anonymous
        if anonymous and self.listen.host not in LOOPBACK:
            reached = f"listen.host: {self.listen.host!r} can be reached from elsewhere and there are no keys"
            raise ValueError(f"{reached}: add keys, or say `allow_anonymous: true`")
        return self


def _check_policies(where: str, names: Iterable[str], policies: Mapping[str, Any]) -> None:
    for name in names:
        if name not in policies:
            raise ValueError(f"{where}: there is no policy {name!r}: {nearest(name, policies)}")
