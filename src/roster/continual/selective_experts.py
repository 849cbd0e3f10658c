"""An ensemble of encoders of which one is trained for each new task: the one in whose features the new classes overlap
least (Rypesc et al., 2024, "Divide and not forget: Ensemble of selectively trained experts in Continual Learning",
arXiv:2401.10191; the authors' repository is grypesc/SEED).

Shape legend: N examples, D width of the features, K experts, C classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.errors import RosterError
from roster.saving import writing
from roster.tensors import StoredTensors, write_tensors

_FILE = "ensemble"


@dataclass(frozen=True)
class Gaussian:
    """A class in one expert's features.

    Attributes:
        mean_D: [D], float64.
        cov_DD: [D, D], float64, positive definite.
    """

    mean_D: Tensor
    cov_DD: Tensor

    @classmethod
    def of(cls, features_ND: Tensor, shrink: float) -> Gaussian:
        """Of some features; `shrink` of their mean variance is added to the diagonal."""
        z_ND = features_ND.double()
        centred_ND = z_ND - z_ND.mean(0)
        cov_DD = centred_ND.T @ centred_ND / max(len(z_ND) - 1, 1)
        ridge = shrink * cov_DD.diagonal().mean().clamp_min(1e-6)
        return cls(z_ND.mean(0), cov_DD + ridge * torch.eye(len(cov_DD), dtype=cov_DD.dtype))

    def log_density(self, features_ND: Tensor) -> Tensor:
        """[N]"""
        left_DD = torch.linalg.cholesky(self.cov_DD)
        white_DN = torch.linalg.solve_triangular(left_DD, (features_ND.double() - self.mean_D).T, upper=False)
        constant = len(self.mean_D) * math.log(2 * math.pi) + 2 * left_DD.diagonal().log().sum()
        density_N: Tensor = -0.5 * (white_DN.square().sum(0) + constant)
        return density_N

    def divergence(self, other: Gaussian) -> float:
        """KL(self || other)."""
        D, difference_D = len(self.mean_D), other.mean_D - self.mean_D
        left_DD = torch.linalg.cholesky(other.cov_DD)
        trace = torch.cholesky_solve(self.cov_DD, left_DD).trace()
        distance = difference_D @ torch.cholesky_solve(difference_D[:, None], left_DD)[:, 0]
        return float(0.5 * (trace + distance - D + other.cov_DD.logdet() - self.cov_DD.logdet()))


class SelectiveExperts:
    """K encoders, a Gaussian per class in each, and no stored examples.

    The first K tasks train one expert each, the second and later ones from the first one's weights as they were before
    any training. Every later task trains the expert whose new classes' Gaussians are the furthest apart (mean KL over
    ordered pairs), with `(1 - alpha) CE + alpha MSE(features, features before)`. An example gets, from every expert,
    `softmax(log density / temperature)` over the classes that the expert knows; a class's score is their mean.

    Args:
        encoder: `(x) -> features [N, D]`; copied K times, dropout and running statistics included.
        experts: K.
        epochs, later_epochs: for the first K tasks, and for those after them.
        rate, momentum, batch: of stochastic gradient descent.
        alpha: how strongly an expert that is trained again is held to its features.
        temperature: of the softmax over log densities.
        shrink: see `Gaussian.of`.
        choose: `(expert's mean KL of all experts) -> which to train`; by default the largest.
        seed: of heads and of the order of examples.
    """

    def __init__(
        self,
        encoder: nn.Module,
        experts: int = 5,
        *,
        epochs: int = 200,
        later_epochs: int = 100,
        rate: float = 0.05,
        momentum: float = 0.9,
        batch: int = 64,
        alpha: float = 0.99,
        temperature: float = 3.0,
        shrink: float = 0.01,
        choose: Callable[[list[float]], int] | None = None,
        seed: int = 0,
    ):
        if experts < 1:
            raise RosterError(f"an ensemble needs at least 1 expert, not {experts}")
        self.encoders = [copy.deepcopy(encoder).eval() for _ in range(experts)]
        self.known: list[dict[int, Gaussian]] = [{} for _ in range(experts)]
        self.epochs, self.later_epochs, self.rate, self.momentum = epochs, later_epochs, rate, momentum
        self.batch, self.alpha, self.temperature, self.shrink = batch, alpha, temperature, shrink
        self.choose = choose or (lambda apart: max(range(len(apart)), key=apart.__getitem__))
        self.tasks = 0
        self._drawn = torch.Generator().manual_seed(seed)

    def partial_fit(self, x_N: Tensor, labels_N: Tensor) -> int:
        """Learns one task whose classes are all new. Returns which expert was trained.

        Args:
            x_N: examples, as the encoder takes them.
            labels_N: their classes, at least two of them.

        Raises:
            RosterError: classes that were seen before, or fewer than two.
        """
        labels = sorted(set(labels_N.tolist()))
        old = sorted(set(labels) & {label for each in self.known for label in each})
        if old or len(labels) < 2:
            why = f"classes {old} were learnt before" if old else f"it has {len(labels)} class"
            raise RosterError(f"a task brings at least two classes, all of them new: {why}")
        first = self.tasks < len(self.encoders)
        chosen = self.tasks if first else self.choose([self._apart(e, x_N, labels_N) for e in range(len(self.known))])
        self._train(self.encoders[chosen], x_N, labels_N, labels, first)
        self.tasks += 1
        for expert in range(min(self.tasks, len(self.encoders))):
            self.known[expert] |= self._gaussians(expert, x_N, labels_N)
        return chosen

    def scores(self, x_N: Tensor) -> tuple[Tensor, list[int]]:
        """(score of every class [N, C], the classes); RosterError before the first task."""
        labels = sorted({label for each in self.known for label in each})
        if not labels:
            raise RosterError("this ensemble has learnt no task yet: call partial_fit first")
        total_NC = torch.zeros(len(x_N), len(labels), dtype=torch.float64)
        voters_C = torch.zeros(len(labels), dtype=torch.float64)
        for expert, known in enumerate(self.known):
            if not known:
                continue
            z_ND = self._features(expert, x_N)
            density_NC = torch.stack([gaussian.log_density(z_ND) for gaussian in known.values()], dim=1)
            at_C = torch.tensor([labels.index(label) for label in known])
            total_NC[:, at_C] += (density_NC / self.temperature).softmax(1)
            voters_C[at_C] += 1
        return total_NC / voters_C, labels

    def predict(self, x_N: Tensor) -> Tensor:
        """The likeliest class of each example, [N]."""
        score_NC, labels = self.scores(x_N)
        return torch.tensor(labels)[score_NC.argmax(1)]

    def save(self, folder: str | Path) -> None:
        """Writes encoders and Gaussians to one file in a folder."""
        state = {f"{e}.encoder.{n}": t for e, each in enumerate(self.encoders) for n, t in each.state_dict().items()}
        for expert, known in enumerate(self.known):
            for label, gaussian in known.items():
                state[f"{expert}.class.{label}.mean"] = gaussian.mean_D
                state[f"{expert}.class.{label}.cov"] = gaussian.cov_DD
        with writing(folder) as new:
            write_tensors({**state, "tasks": torch.tensor(self.tasks)}, new, _FILE)

    def load(self, folder: str | Path) -> SelectiveExperts:
        """Takes over what another one with the same encoders has written; RosterError where it does not fit."""
        stored = StoredTensors(Path(folder), _FILE)
        for expert, encoder in enumerate(self.encoders):
            mine = encoder.state_dict()
            prefix = f"{expert}.encoder."
            theirs = {key.removeprefix(prefix): stored.shape(key) for key in stored if key.startswith(prefix)}
            if theirs != {name: list(tensor.shape) for name, tensor in mine.items()}:
                raise RosterError(f"{str(stored.where)!r} holds other encoders than these")
            encoder.load_state_dict({name: stored[prefix + name] for name in mine})
        if f"{len(self.encoders)}.encoder.{next(iter(self.encoders[0].state_dict()))}" in stored:
            raise RosterError(f"{str(stored.where)!r} holds more than {len(self.encoders)} experts")
        self.known = [{} for _ in self.encoders]
        for key in (each for each in stored if each.endswith(".mean") and ".class." in each):
            owner, _, label = key.removesuffix(".mean").split(".")
            gaussian = Gaussian(stored[key], stored[key.removesuffix("mean") + "cov"])
            self.known[int(owner)][int(label)] = gaussian
        self.tasks = int(stored["tasks"])
        return self

    @torch.no_grad()
    def _features(self, expert: int, x_N: Tensor) -> Tensor:
        features: Tensor = self.encoders[expert](x_N)
        return features

    def _gaussians(self, expert: int, x_N: Tensor, labels_N: Tensor) -> dict[int, Gaussian]:
        z_ND = self._features(expert, x_N)
        return {label: Gaussian.of(z_ND[labels_N == label], self.shrink) for label in sorted(set(labels_N.tolist()))}

    def _apart(self, expert: int, x_N: Tensor, labels_N: Tensor) -> float:
        """Mean divergence over all ordered pairs of the task's own classes, in one expert's features."""
        made = list(self._gaussians(expert, x_N, labels_N).values())
        pairs = [one.divergence(other) for one in made for other in made if one is not other]
        return sum(pairs) / len(pairs)

    def _train(self, encoder: nn.Module, x_N: Tensor, labels_N: Tensor, labels: list[int], first: bool) -> None:
        """Fits one encoder with a head of its own, which is thrown away; later on without moving its statistics."""
        before_ND = None if first else encoder(x_N).detach()
        target_N = torch.tensor([labels.index(label) for label in labels_N.tolist()])
        width = encoder(x_N[:1]).shape[1]
        head_CD = nn.Parameter(torch.randn(len(labels), width, generator=self._drawn) * width**-0.5)
        optimiser = torch.optim.SGD([*encoder.parameters(), head_CD], lr=self.rate, momentum=self.momentum)
        encoder.train(first)
        for _ in range(self.epochs if first else self.later_epochs):
            for batch in torch.randperm(len(x_N), generator=self._drawn).split(self.batch):
                z_ND = encoder(x_N[batch])
                loss = F.cross_entropy(z_ND @ head_CD.T, target_N[batch])
                if before_ND is not None:
                    loss = (1 - self.alpha) * loss + self.alpha * F.mse_loss(z_ND, before_ND[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        encoder.eval()
