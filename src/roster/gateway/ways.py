"""The ways to each model: one for every replica and every API key, each with its own circuit.

Calls go to the way with the fewest calls under way; a way whose circuit is open, or whose upstream fails its health
checks, is left out. Which *model* is asked is the policies' business, not this file's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set

from roster.gateway.breaker import Breaker
from roster.gateway.config_file import Config
from roster.gateway.outbound import one_key_each
from roster.gateway.upstreams import Target


class Ways:
    """All ways of a config.

    Args:
        config: what the file says.
        before: the ways that these replace: what is unchanged keeps its circuit, and counts go on.

    Attributes:
        by_model: the ways to each model, by its name.
        in_flight: calls under way, by `Target.way`.
        down: the names of upstreams that failed their health checks.
    """

    def __init__(self, config: Config, before: Ways | None = None) -> None:
        self.in_flight: Counter[str] = Counter() if before is None else before.in_flight
        self.down: set[str] = set() if before is None else before.down & config.upstreams.keys()
        old = {} if before is None else {target.way: target for target in before}
        self.by_model = {name: tuple(_kept(target, old) for target in _targets(name, config)) for name in config.models}
        self._turn = 0

    def __iter__(self) -> Iterator[Target]:
        return (target for targets in self.by_model.values() for target in targets)

    def pick(self, model: str, tried: Set[str] = frozenset()) -> Target | None:
        """The least busy way to a model, in turn where several are; None when none is open.

        Args:
            model: its name.
            tried: ways (`Target.way`) that are left out.
        """
        targets = self.by_model[model]
        self._turn += 1
        turned = [targets[(at + self._turn) % len(targets)] for at in range(len(targets))]
        is_open = [target for target in turned if target.way not in tried and self._is_open(target)]
        return min(is_open, key=lambda target: self.in_flight[target.way], default=None)

    @property
    def resting(self) -> set[str]:
        """Models to which no way is open."""
        return {name for name, targets in self.by_model.items() if not any(map(self._is_open, targets))}

    @property
    def load(self) -> dict[str, float]:
        """Calls under way, by model."""
        return {
            name: float(sum(self.in_flight[target.way] for target in targets))
            for name, targets in self.by_model.items()
        }

    def _is_open(self, target: Target) -> bool:
        return target.place not in self.down and target.breaker.wait <= 0


def _targets(name: str, config: Config) -> Iterator[Target]:
    model = config.models[name]
    for place in model.upstreams:
        upstream = config.upstreams[place]
        for number, each in enumerate(one_key_each(upstream)):
            way = f"{name}@{place}" + (f"#{number}" if upstream.api_keys else "")
            breaker = Breaker(upstream.breaker.failures, upstream.breaker.cooldown)
            yield Target(name, model, each, breaker, place, way)


def _kept(target: Target, old: dict[str, Target]) -> Target:
    """The same way as before where the config has not changed it, so that its circuit stays as it is."""
    before = old.get(target.way)
    same = before is not None and (before.model, before.upstream) == (target.model, target.upstream)
    return before if same and before is not None else target
