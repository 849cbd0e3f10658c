"""Clients with digits of two or three classes each, and a network trained on a hundred others: FedJETs' ground.

Shape legend: N examples, D 64 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.grounds.digits import digits
from evidence.protocol.check import Draw
from roster.moe.federated import Client

FEATURES, CLIENTS, UNSEEN, PUBLIC = 32, 20, 5, 100


class Beside(nn.Module):
    """A network that reads an input and the common expert's features of it."""

    def __init__(self, common: nn.Module, hidden: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64 + FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        self.common = [common]  # not a part of what is sent

    def forward(self, x_ND: Tensor) -> Tensor:
        """Logits [N, 10]."""
        logits: Tensor = self.net(torch.cat([x_ND, self.common[0](x_ND)], 1))
        return logits


def clients_of(draw: Draw) -> tuple[nn.Module, list[Client], list[Client]]:
    """The common expert, 20 clients that train, and five that nobody has seen; the draw's ground says who has what."""
    every = digits(draw, learn=PUBLIC)
    torch.manual_seed(draw.ground)
    common = _common_expert(every.x_ND, every.y_N)
    clients = _split(every.held_ND, every.held_N)
    seen, unseen = clients[:CLIENTS], [each for each in clients[CLIENTS:] if len(each.y_N)]
    return common, seen, unseen


def _common_expert(x_ND: Tensor, y_N: Tensor) -> nn.Module:
    net = nn.Sequential(nn.Linear(64, FEATURES), nn.ReLU(), nn.Linear(FEATURES, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(net(x_ND), y_N).backward()
        optimizer.step()
    return nn.Sequential(net[0], net[1]).requires_grad_(False)


def _split(x_ND: Tensor, y_N: Tensor) -> list[Client]:
    """Clients of two or three classes each; every example belongs to one client."""
    classes = [torch.randperm(10)[: 2 + int(torch.rand(()) < 0.5)].tolist() for _ in range(CLIENTS + UNSEEN)]
    for each in range(10):  # every class has a client that trains
        if not any(each in mine for mine in classes[:CLIENTS]):
            classes[each].append(each)
    homes = [[client for client, mine in enumerate(classes) if int(y) in mine] for y in y_N]
    home_N = torch.tensor([mine[int(torch.randint(len(mine), ()))] for mine in homes])
    return [Client(x_ND[home_N == client], y_N[home_N == client]) for client in range(CLIENTS + UNSEEN)]
