"""Early exit with gates that are trained together with the heads: each input leaves a stack of layers where going on
is not worth its cost.

Equations: P(exit = l) = g_l prod_{j<l} (1 - g_j), the last gate always open; heads minimise
sum_l P(exit = l) CE_l; gate l is taught to open where leaving, CE_l + lam * cost_l, is at most the least of
that sum at any later exit. A gate reads how sure its head is: highest probability, margin and entropy.
Trains: heads and gates; the layers too, unless they are frozen.
Siblings: thresholds on the head's confidence (`Threshold exits` in the check) need no gates, but heads that are
trained on everybody are then used by few.
Source: Regol, Chataoui and Coates, 2023, "Jointly-Learned Exit and Inference for a Dynamic Neural Network",
arXiv:2310.09163.
Differences: heads and gates are updated in the same step, where the source alternates (bi-level); targets of the gates
compare with the best later exit.

Shape legend: N inputs, L layers (exits), C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.errors import RosterError


@dataclass(frozen=True)
class Exits:
    """What every exit says of every input.

    Attributes:
        logits_LNC: of the heads.
        gate_LN: logits of the gates; plus infinity for the last.
    """

    logits_LNC: Tensor
    gate_LN: Tensor

    @property
    def exit_LN(self) -> Tensor:
        """P(exit = l) for every input; sums to 1 over l."""
        open_LN = self.gate_LN.sigmoid()
        stay_LN = torch.cumprod(torch.cat([torch.ones_like(open_LN[:1]), 1 - open_LN[:-1]]), 0)
        return open_LN * stay_LN


class EarlyExit(nn.Module):
    """A stack of layers with a head and a gate after each.

    Args:
        layers: each reads what the one before returned.
        heads: `layer output -> logits [N, C]`, one per layer.
        costs: of computing up to each exit, rising; by default 1/L, 2/L, ... 1.
        trade: lam, nats of loss that one unit of cost must save.
    """

    cost_L: Tensor

    def __init__(
        self,
        layers: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        costs: Sequence[float] | None = None,
        trade: float = 0.1,
    ):
        super().__init__()
        if not layers or len(layers) != len(heads):
            raise RosterError(f"early exit needs one head per layer: {len(layers)} layers, {len(heads)} heads")
        costs = [(index + 1) / len(layers) for index in range(len(layers))] if costs is None else list(costs)
        if len(costs) != len(layers) or sorted(costs) != costs:
            raise RosterError(f"early exit needs one cost per layer, rising, not {costs}")
        self.layers, self.heads, self.trade = nn.ModuleList(layers), nn.ModuleList(heads), trade
        self.gates = nn.ModuleList(nn.Linear(3, 1) for _ in layers[:-1])
        self.register_buffer("cost_L", torch.tensor(costs, dtype=torch.float32))

    def forward(self, x: Tensor) -> Exits:
        """All exits; for training. x is whatever the first layer reads, N inputs first."""
        logits, gates = [], []
        for index, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True)):
            x = layer(x)
            logits.append(head(x))
            gates.append(self._gate(index, logits[-1]))
        return Exits(torch.stack(logits), torch.stack(gates))

    def loss(self, exits: Exits, label_N: Tensor) -> Tensor:
        """Loss of heads (weighted by who leaves there) and of gates (against who should)."""
        L, N, _ = exits.logits_LNC.shape
        labels = label_N.expand(L, N).reshape(-1)
        error_LN = F.cross_entropy(exits.logits_LNC.flatten(0, 1), labels, reduction="none").view(L, N)
        heads = (exits.exit_LN.detach() * error_LN).sum(0).mean()
        if L == 1:
            return heads
        total_LN = error_LN.detach() + self.trade * self.cost_L[:, None]
        later_LN = total_LN.flip(0).cummin(0).values.flip(0)
        target_LN = (total_LN[:-1] <= later_LN[1:]).to(error_LN)
        return heads + F.binary_cross_entropy_with_logits(exits.gate_LN[:-1], target_LN)

    @torch.no_grad()
    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Answers with each input computed only until it leaves.

        Returns:
            (logits [N, C], exit of each input [N]).
        """
        logits, exit_N = x.new_zeros(0, 0), torch.zeros(len(x), dtype=torch.long, device=x.device)
        running_M = torch.arange(len(x), device=x.device)
        for index, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True)):
            x = layer(x)
            here_MC = head(x)
            leaves_M = self._gate(index, here_MC) >= 0
            if index == 0:
                logits = here_MC.new_zeros(len(exit_N), here_MC.shape[1])
            logits[running_M[leaves_M]], exit_N[running_M[leaves_M]] = here_MC[leaves_M], index
            x, running_M = x[~leaves_M], running_M[~leaves_M]
            if not len(running_M):
                break
        return logits, exit_N

    def _gate(self, index: int, logits_NC: Tensor) -> Tensor:
        """Logits of one gate, [N]; what it reads of the head does not train the head."""
        if index == len(self.layers) - 1:
            return torch.full_like(logits_NC[:, 0], torch.inf)
        prob_NC = logits_NC.detach().softmax(1)
        best_N2 = prob_NC.topk(2, dim=1).values
        entropy_N = -torch.special.xlogy(prob_NC, prob_NC).sum(1)
        features_N3 = torch.stack([best_N2[:, 0], best_N2[:, 0] - best_N2[:, 1], entropy_N], dim=1)
        gate_N1: Tensor = self.gates[index](features_N3)[:, 0]
        return gate_N1
