"""An ensemble of weak learners with keys, of which the nearest few learn and answer; trained in one pass, end to end
(Wojcik et al., 2023, "Neural Architecture for Online Ensemble Continual Learning", arXiv:2211.14963).

Shape legend: N examples, D width of the features, M learners, C classes seen so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.errors import RosterError
from roster.saving import writing
from roster.tensors import StoredTensors, write_tensors

_FILE = "ensemble"
_HALVINGS = 60  # of the interval in which the threshold lies: float64's precision


def soft_top_k(scores_NM: Tensor, k: int, epsilon: float) -> Tensor:
    """A differentiable choice of the k largest of each row: shares in [0, 1] that sum to k.

    It is the entropic transport of M scores onto the anchors 0 and 1, of which 1 takes k of them (Xie et al., 2020,
    arXiv:2002.06504). With squared distances and two anchors the plan is a sigmoid with one threshold per row,
    `sigmoid((2 s - t) / epsilon)`, which is found here by halving instead of Sinkhorn's iterations; gradients are those
    of the exact plan.

    Args:
        scores_NM: any scores.
        k: how many; with k >= M all are chosen whole.
        epsilon: of the entropy; towards 0 the choice becomes the hard one.
    """
    if k >= scores_NM.shape[1]:
        return torch.ones_like(scores_NM)
    x_NM = 2 * scores_NM.double() / epsilon
    with torch.no_grad():
        low_N1, high_N1 = x_NM.amin(1, keepdim=True) - 50.0, x_NM.amax(1, keepdim=True) + 50.0
        for _ in range(_HALVINGS):
            t_N1 = (low_N1 + high_N1) / 2
            many_N1 = torch.sigmoid(x_NM - t_N1).sum(1, keepdim=True) > k
            low_N1, high_N1 = torch.where(many_N1, t_N1, low_N1), torch.where(many_N1, high_N1, t_N1)
        share_NM = torch.sigmoid(x_NM - t_N1)
        slope_N1 = (share_NM * (1 - share_NM)).sum(1, keepdim=True).clamp_min(1e-12)
    # A step of Newton's method moves a found root nowhere, but gives it the root's gradient.
    t_N1 = t_N1 + (torch.sigmoid(x_NM - t_N1).sum(1, keepdim=True) - k) / slope_N1
    return torch.sigmoid(x_NM - t_N1).to(scores_NM.dtype)


class OnlineEnsemble(nn.Module):
    """`out(z) = sum_j s_j c_j (s_j h_j(z)) / sum_j s_j c_j`: z a feature of length one, c_j = z . k_j its nearness to
    the key of learner j, s the soft choice of the k nearest, h_j = tau tanh(W_j z / tau).

    The loss is `-mean out_y + mean sum_j (1 - c_j) s_j`: there is no softmax over the classes, so that a class that is
    not in a batch is not pushed down.

    Args:
        width: D.
        learners: M.
        k: of them answer.
        tau: bound of a learner's output.
        epsilon: of the soft choice; 0 for the hard one.
        rate: Adam's, of the learners.
        key_rate: of the keys, which move towards the features that choose them; 0 leaves them where they are.
        seed: of keys and first weights.
    """

    def __init__(
        self,
        width: int,
        learners: int = 128,
        k: int = 16,
        tau: float = 1.0,
        epsilon: float = 5e-4,
        rate: float = 1e-2,
        key_rate: float = 5e-5,
        seed: int = 0,
    ):
        super().__init__()
        if not 1 <= k <= learners:
            raise RosterError(f"an online ensemble chooses k={k} of {learners} learners: k must be 1 to {learners}")
        self.k, self.tau, self.epsilon, self.rate, self.key_rate = k, tau, epsilon, rate, key_rate
        self._drawn = torch.Generator().manual_seed(seed)
        self.keys_MD = nn.Parameter(torch.randn(learners, width, generator=self._drawn))
        self.weight_CMD = nn.Parameter(torch.zeros(0, learners, width))
        self.classes: list[int] = []
        self._optimiser: torch.optim.Adam | None = None

    def choose(self, z_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(share s, nearness c) of every learner, [N, M] each, for features of length one."""
        near_NM = z_ND @ F.normalize(self.keys_MD, dim=1).T
        if self.epsilon > 0:
            return soft_top_k(near_NM, self.k, self.epsilon), near_NM
        top_NK = near_NM.topk(self.k, dim=1).indices
        return torch.zeros_like(near_NM).scatter(1, top_NK, 1.0), near_NM

    def forward(self, features_ND: Tensor) -> Tensor:
        """[N, C], in the order of `classes`."""
        z_ND = F.normalize(features_ND, dim=1)
        return self._answers(z_ND, *self.choose(z_ND))

    def partial_fit(self, features_ND: Tensor, labels_N: Tensor) -> float:
        """One step on one batch of the stream; classes that are new are added. Returns the loss.

        The optimiser begins anew whenever classes are added.
        """
        self._grow(labels_N.tolist())
        at = {label: index for index, label in enumerate(self.classes)}
        target_N1 = torch.tensor([[at[label]] for label in labels_N.tolist()], device=self.keys_MD.device)
        z_ND = F.normalize(features_ND, dim=1)
        share_NM, near_NM = self.choose(z_ND)
        votes_N1 = self._answers(z_ND, share_NM, near_NM).gather(1, target_N1)
        loss = -votes_N1.mean() + ((1 - near_NM) * share_NM).sum(1).mean()
        optimiser = self._adam()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    @torch.no_grad()
    def predict(self, features_ND: Tensor) -> Tensor:
        """The likeliest class of each example, [N]."""
        if not self.classes:
            raise RosterError("this ensemble has seen no class yet: call partial_fit first")
        return torch.tensor(self.classes)[self(features_ND).argmax(1).cpu()]

    def save(self, folder: str | Path) -> None:
        """Writes keys, learners and classes to a folder; what the optimiser remembers is not kept."""
        classes_C = torch.tensor(self.classes, dtype=torch.long)
        with writing(folder) as new:
            write_tensors({**self.state_dict(), "classes_C": classes_C}, new, _FILE)

    def load(self, folder: str | Path) -> OnlineEnsemble:
        """Takes over what another one of the same sizes has written; RosterError where it does not fit."""
        stored = StoredTensors(Path(folder), _FILE)
        if {*stored} != {"keys_MD", "weight_CMD", "classes_C"} or stored.shape("keys_MD") != [*self.keys_MD.shape]:
            raise RosterError(f"{str(stored.where)!r} is no ensemble of {list(self.keys_MD.shape)} learners by width")
        self.classes = stored["classes_C"].tolist()
        self.keys_MD = nn.Parameter(stored["keys_MD"])
        self.weight_CMD = nn.Parameter(stored["weight_CMD"])
        self._optimiser = None
        return self

    def _answers(self, z_ND: Tensor, share_NM: Tensor, near_NM: Tensor) -> Tensor:
        votes_NCM = self.tau * torch.tanh(torch.einsum("nd,cmd->ncm", z_ND, self.weight_CMD) / self.tau)
        weight_NM = share_NM * near_NM
        total_N1 = weight_NM.sum(1, keepdim=True)
        # Features that point away from every key have no nearness to weigh by; their sign is kept.
        total_N1 = torch.where(total_N1.abs() < 1e-6, 1e-6, total_N1)
        return torch.einsum("ncm,nm->nc", votes_NCM, weight_NM * share_NM) / total_N1

    def _grow(self, labels: Sequence[int]) -> None:
        new = sorted(set(labels) - set(self.classes))
        if not new:
            return
        _, M, D = self.weight_CMD.shape
        # Variance scaling: truncated normal of variance 1 / D.
        fresh_CMD = torch.randn(len(new), M, D, generator=self._drawn).clamp(-2, 2) * D**-0.5
        self.classes += new
        grown_CMD = torch.cat([self.weight_CMD.detach(), fresh_CMD.to(self.weight_CMD)])
        self.weight_CMD = nn.Parameter(grown_CMD)
        self._optimiser = None

    def _adam(self) -> torch.optim.Adam:
        if self._optimiser is None:
            groups = [{"params": [self.weight_CMD], "lr": self.rate}]
            if self.key_rate:
                groups.append({"params": [self.keys_MD], "lr": self.key_rate})
            self._optimiser = torch.optim.Adam(groups)
        return self._optimiser
