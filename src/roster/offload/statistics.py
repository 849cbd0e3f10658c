"""What a cache of experts did, layer by layer.

A *need* is one expert for one call of one layer. It is a hit when the expert is there, late when it is on its way, and
a miss otherwise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class LayerStatistics:
    """Counts of one layer.

    Attributes:
        hits, late, misses: needs by how they were met.
        streamed: misses for which there was no slot: read for this call alone.
        ahead: experts read before they were needed.
        useful: of those, the ones that were needed before they had to go.
        nbytes: bytes read.
        stall: seconds that the layer waited.
    """

    hits: int = 0
    late: int = 0
    misses: int = 0
    streamed: int = 0
    ahead: int = 0
    useful: int = 0
    nbytes: int = 0
    stall: float = 0.0

    @property
    def needs(self) -> int:
        """All of them."""
        return self.hits + self.late + self.misses

    @property
    def hit_rate(self) -> float:
        """Share of needs that no reading had to begin for; 1 where there were none."""
        return (self.hits + self.late) / self.needs if self.needs else 1.0

    @property
    def precision(self) -> float:
        """Share of what was read ahead that was of use; 1 where nothing was."""
        return self.useful / self.ahead if self.ahead else 1.0


@dataclass
class Statistics:
    """Counts of all layers.

    Attributes:
        layers: of each, in the model's order.
        tokens: that the model was called with.
        seconds: within the model's calls.
    """

    layers: list[LayerStatistics]
    tokens: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> LayerStatistics:
        """Sums over the layers."""
        names = asdict(LayerStatistics())
        return LayerStatistics(**{name: sum(getattr(layer, name) for layer in self.layers) for name in names})

    def text(self) -> str:
        """A table for people."""
        head = f"{'layer':>6} {'needs':>9} {'hits':>7} {'late':>6} {'misses':>7} {'hit rate':>8}"
        lines = [f"{head} {'precision':>9} {'MiB read':>9} {'stalled s':>9}"]
        rows = [(str(index), layer) for index, layer in enumerate(self.layers)]
        for name, each in [*rows, ("all", self.total)]:
            lines.append(
                f"{name:>6} {each.needs:>9,} {each.hits:>7,} {each.late:>6,} {each.misses:>7,} {each.hit_rate:>8.1%} "
                f"{each.precision:>9.1%} {each.nbytes / 2**20:>9,.1f} {each.stall:>9.3f}"
            )
        if self.seconds:
            lines.append(f"{self.tokens:,} tokens in {self.seconds:.2f} s: {self.tokens / self.seconds:,.1f} tokens/s")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything counted."""
        total = self.total
        return {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "hit_rate": total.hit_rate,
            "precision": total.precision,
            "total": asdict(total),
            "layers": [asdict(layer) for layer in self.layers],
        }
