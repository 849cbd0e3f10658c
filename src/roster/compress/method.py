"""What a method of compression is: it looks at what calibration saw, and says what becomes of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from roster.compress.groups import Regrouped, plan_groups, regroup_block
from roster.compress.mixture import Mixture
from roster.compress.seen import Seen
from roster.compress.size import experts_of
from roster.weights import MAX_SHARD, Plan


class Method(Protocol):
    """One object per run; its constructor takes the mixture, what `--to` says and the options, and refuses.

    Attributes:
        slug: its name.
        in_turn: whether later layers are calibrated on what became of earlier ones.
    """

    slug: ClassVar[str]
    in_turn: ClassVar[bool]

    def decide(self, seen: Mapping[int, Seen]) -> Mapping[int, Any]:
        """What becomes of these layers: one of them where layers are done in turn, else all."""

    def change(self, block: Any, decision: Any) -> None:
        """The same in memory, on a block of transformers."""

    def plan(self, decisions: Mapping[int, Any], report: Mapping[str, Any], max_shard: int = MAX_SHARD) -> Plan:
        """The same on disk."""


class Regrouping:
    """What the methods share that leave fewer experts.

    Args:
        mixture: to be made smaller.
        to: see `roster.compress.size`.
    """

    slug: ClassVar[str]
    in_turn: ClassVar[bool] = False

    def __init__(self, mixture: Mixture, to: str) -> None:
        self.mixture, self.kept = mixture, experts_of(to, mixture)

    def change(self, block: Any, decision: Regrouped) -> None:
        """See `Method`."""
        regroup_block(block, decision)

    def plan(self, decisions: Mapping[int, Regrouped], report: Mapping[str, Any], max_shard: int = MAX_SHARD) -> Plan:
        """See `Method`."""
        count = len(next(iter(decisions.values())).groups)
        title = f"{self.slug}: {self.mixture.experts} experts a layer into {count}"
        return plan_groups(self.mixture, decisions, report, max_shard, title)
