"""Fisher-weighted averaging: each weight is the models' mean, weighted by how much each model's answers depend on it.

Equation: theta_j = sum_i w_i F_ij theta_ij / sum_i w_i F_ij, F_ij at least `floor`, with F_i the diagonal of model i's
Fisher information on its own texts, divided by its root mean square over the model (`normalize`).

Source: Matena and Raffel 2022, arXiv 2111.09832. Differences: the authors' code divides by the norm, which is the root
mean square times a constant, so that their floor is another one; it puts the floor under the first model alone, so that
a weight on which nobody depends is the first model's: here it is the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from roster.errors import RosterError
from roster.merge.learned import Asked, Progress, steps
from roster.merge.method import Method, PerModel, per_model, shared
from roster.weights import Kernel, Operand
from roster.weights.diagonals import Diagonal


@dataclass
class Fisher(Kernel):
    """Operands: the models, then the Fisher information of each; the models alone where nothing is known."""

    weight: PerModel = per_model(1.0, 0.0)
    floor: float = shared(1e-6, 1e-30)

    def __post_init__(self) -> None:
        if sum(self.weight) <= 0:
            raise RosterError("the weights are all 0, so their mean does not exist")

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        count = len(self.weight)
        models, known = x[:count], x[count:]
        if not known:
            above = models[0].mul_(self.weight[0])
            for weight, each in zip(self.weight[1:], models[1:], strict=True):
                above.add_(each, alpha=weight)
            return above.div_(sum(self.weight))
        for weight, each in zip(self.weight, known, strict=True):
            each.clamp_(min=self.floor).mul_(weight)
        below = sum(known[1:], known[0].clone())
        above = models[0].mul_(known[0])
        for each, importance in zip(models[1:], known[1:], strict=True):
            above.addcmul_(each, importance)
        return above.div_(below)


@dataclass(frozen=True)
class Importance:
    """How the Fisher information is learned: see `roster.weights.diagonals`."""

    per_model = True

    labels: str = shared("sampled", choices=("sampled", "data"))
    normalize: bool = shared(True)
    seed: int = shared(0, 0, 2**31)

    def begin(self, asked: Asked) -> Known:
        """See `Learner`."""
        found = {}
        for number, (name, model) in enumerate(asked.models.items()):
            file = asked.folder / f"fisher-{number}.safetensors"
            found[name] = Diagonal(model, asked.texts[number], file, self.labels, self.normalize, self.seed)
        return Known(found)


@dataclass(frozen=True)
class Known:
    """The Fisher information by model."""

    diagonals: Mapping[str, Diagonal]

    def of(self, tensor: str, names: Sequence[tuple[str, str]]) -> list[Operand] | None:
        """See `Learned`."""
        if any(name not in self.diagonals[model].specs for model, name in names):
            return None
        return [Operand(self.diagonals[model], name) for model, name in names]

    def learn(self, progress: Progress | None = None) -> None:
        """See `Learned`."""
        for name, each in self.diagonals.items():
            each.gather(steps(progress, f"Fisher information of {name}, rows"))

    def text(self) -> str:
        """See `Learned`."""
        lines = [
            f"learns first: the Fisher information of {name} from {len(each.texts.ids_BS)} rows ({each.texts.tokens:,} "
            f"tokens); holds the model in memory, with {each.memory:,} bytes"
            for name, each in self.diagonals.items()
        ]
        return "\n".join(lines)

    def files(self) -> Mapping[str, bytes | Path]:
        """See `Learned`."""
        return {}


METHOD = Method(
    "fisher",
    "Fisher-weighted averaging",
    "Matena and Raffel 2022, arXiv 2111.09832",
    Fisher,
    base="member",
    fewest=2,
    learner=Importance,
)
