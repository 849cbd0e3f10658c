"""MoNE: experts replaced by constant vectors, the means of what they said ("novices").

Source: Zhang et al. 2025, MoNE, arXiv 2507.00390. A novice takes part in routing with its weight and adds a constant.
No container that stock loaders know holds one and is smaller for it: gated experts without biases cannot be constant,
and where experts have biases (GPT-OSS) all lie in one tensor, so that a constant takes as many bytes as an expert. So
it is refused, until such a container is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from roster.compress.method import Regrouping
from roster.compress.mixture import Mixture
from roster.compress.seen import Seen
from roster.errors import RosterError


class Mone(Regrouping):
    """Refuses, with the nearest methods whose result a stock loader holds."""

    slug: ClassVar[str] = "mone"

    def __init__(self, mixture: Mixture, to: str) -> None:
        super().__init__(mixture, to)
        raise RosterError(
            f"mone: {mixture.config.get('model_type')} has no place for constant experts, its experts have no biases; "
            "nearest: reap (drops the same kind of experts), ream (merges them into others)"
        )

    def decide(self, seen: Mapping[int, Seen]) -> dict[int, Any]:
        """Never reached."""
        raise NotImplementedError
