"""RegMean: each linear layer's answers come as near as they can to those of every model, on that model's own texts.

Equation: W = (sum_i w_i W_i G_i) (sum_i w_i G_i)^-1 minimises sum_i w_i |X_i W^T - X_i W_i^T|^2 / T_i, with G_i = X_i^T
X_i / T_i of the T_i tokens that reach the layer in model i, entries off the diagonal times `reduction`. All else
(norms, embeddings, the head, experts stored as one stack) is the weighted mean.

Sums and solutions are float64; rows of W are independent, and are solved a block of `ROWS` at a time.

Source: Jin et al. 2023, arXiv 2212.09849; the reduction is theirs (0.9 for all but T5, where it is 0.1).

Shape legend: O out_features (rows of W), I in_features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from roster.errors import RosterError
from roster.merge.learned import Asked, Progress, steps
from roster.merge.method import Method, PerModel, gathered, learned, per_model, shared
from roster.weights import Kernel
from roster.weights.grams import Gram, Grams

ROWS = 64


@dataclass
class RegMean(Kernel):
    """Operands: the models. Whole rows at a time, where Gram matrices are known."""

    weight: PerModel = per_model(1.0, 0.0)
    reduction: float = shared(0.9, 0.0, 1.0)
    grams: tuple[Gram | Tensor, ...] = learned()
    tensor: str = ""
    _weighted: list[Tensor] | None = gathered()
    _factor: Tensor | None = gathered()

    def __post_init__(self) -> None:
        if sum(self.weight) <= 0:
            raise RosterError("the weights are all 0, so their mean does not exist")
        promised = [each for each in self.grams if isinstance(each, Gram)]
        tokens = sum(each.tokens for each in promised)
        if promised and self.reduction == 1 and tokens < promised[0].width:
            raise RosterError(
                f"{self.tensor!r} has {promised[0].width} inputs, and {tokens} tokens cannot determine it: give more "
                "rows, or a reduction below 1"
            )

    def unit(self, shape: tuple[int, ...]) -> int:
        """A block of rows."""
        return ROWS * shape[-1] if self.grams else 1

    def scratch(self, shape: tuple[int, ...]) -> int:
        """The matrices and their sum's factor, float64."""
        return (len(self.grams) + 2) * 8 * shape[-1] ** 2 if self.grams else 0

    def begin(self, shape: tuple[int, ...]) -> None:
        """Reads the matrices and factors their sum.

        Raises:
            RosterError: the sum has no inverse.
        """
        self._weighted = self._factor = None
        if not self.grams:
            return
        self._weighted = []
        for weight, gram in zip(self.weight, self.grams, strict=True):
            G_II = (gram if isinstance(gram, Tensor) else gram.read()).to(torch.float64, copy=True)
            diagonal_I = G_II.diagonal().clone()
            G_II.mul_(self.reduction).diagonal().copy_(diagonal_I)
            self._weighted.append(G_II.mul_(weight))
        total_II = sum(self._weighted[1:], self._weighted[0].clone())
        factor_II, failed = torch.linalg.cholesky_ex(total_II)
        least = float(factor_II.diagonal().min() / factor_II.diagonal().max()) if not int(failed) else 0.0
        if not least > 1e-7:
            raise RosterError(
                f"the texts leave {self.tensor!r} undetermined: fewer tokens than it has inputs, or inputs that are "
                "always 0; give more rows, or a reduction below 1"
            )
        self._factor = factor_II

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        if self._factor is None or self._weighted is None:
            mean = x[0].mul_(self.weight[0])
            for weight, each in zip(self.weight[1:], x[1:], strict=True):
                mean.add_(each, alpha=weight)
            return mean.div_(sum(self.weight))
        width = len(self._factor)
        models_OI = [each.view(-1, width) for each in x]
        found = []
        for at in range(0, len(models_OI[0]), ROWS):
            pairs = zip(models_OI, self._weighted, strict=True)
            target_OI = torch.stack([W_OI[at : at + ROWS].double() @ G_II for W_OI, G_II in pairs]).sum(0)
            found.append(torch.cholesky_solve(target_OI.T, self._factor).T)
        return torch.cat(found).flatten().to(x[0].dtype)

    def end(self) -> dict[str, object]:
        """See `Kernel`."""
        self._weighted = self._factor = None
        return {}


@dataclass(frozen=True)
class Inputs:
    """What linear layers read is learned layer by layer: see `roster.weights.grams`."""

    per_model = True

    def begin(self, asked: Asked) -> Known:
        """See `Learner`."""
        models = enumerate(asked.models.items())
        return Known({name: Grams(model, asked.texts[i], asked.folder, f"gram-{i}") for i, (name, model) in models})


@dataclass(frozen=True)
class Known:
    """The Gram matrices by model."""

    grams: Mapping[str, Grams]

    def of(self, tensor: str, names: Sequence[tuple[str, str]]) -> list[Gram] | None:
        """See `Learned`."""
        found = [self.grams[model].of(name.removesuffix(".weight")) for model, name in names]
        whole = [each for each in found if each is not None]
        return whole if tensor.endswith(".weight") and len(whole) == len(found) else None

    def learn(self, progress: Progress | None = None) -> None:
        """See `Learned`."""
        for name, each in self.grams.items():
            each.gather(steps(progress, f"inputs of {name}, layers"))

    def text(self) -> str:
        """See `Learned`."""
        lines = []
        for name, each in self.grams.items():
            lines.append(
                f"learns first: what {len(each)} linear layers of {name} read, from {len(each.texts.ids_BS)} rows "
                f"({each.texts.tokens:,} tokens), one layer in memory at a time; all other tensors are averaged"
            )
        return "\n".join(lines)

    def files(self) -> Mapping[str, bytes | Path]:
        """See `Learned`."""
        return {}


METHOD = Method(
    "regmean",
    "RegMean",
    "Jin et al. 2023, arXiv 2212.09849",
    RegMean,
    base="member",
    fewest=2,
    learner=Inputs,
    takes="grams",
)
