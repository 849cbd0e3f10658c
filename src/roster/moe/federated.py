"""FedJETs as a simulation: experts that clients with different data train, each client the few that it needs.

A server keeps M small networks (the experts), a gate, and a common expert that is trained already and stays as it is.
The gate reads the common expert's features. In each round a client is sent the gate and the K experts that the gate
prefers on average over the client's data; it trains both on that data, and the server takes the mean of what comes
back, each expert over the clients that had it, weighted by their examples, the gate over all. In the first rounds some
clients are anchors: each trains one expert that is named for it, and teaches the gate to choose it, so that experts
become different. A client that nobody has seen is served by the gate alone: for each input the K best experts, without
training.

Source: Dun et al., 2023, FedJETs: Efficient Just-In-Time Personalization with Federated Mixture of Experts,
arXiv:2306.08586. What its abstract does not say (how anchors teach the gate, that probabilities are mixed and not
logits) is a choice made here.

Aggregation is `mean_of` on plain state dicts, which a framework for federated learning can call as its own.

Shape legend: N examples, D inputs, H features of the common expert, C classes, M experts, K sent to a client.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.errors import RosterError

State = Mapping[str, Tensor]


class Client(NamedTuple):
    """One client's data: inputs [N, D] and classes [N]."""

    x_ND: Tensor
    y_N: Tensor


class Returned(NamedTuple):
    """What a client sends back: its experts by their numbers, the gate, and how many examples it has."""

    experts: Mapping[int, State]
    gate: State
    examples: int


@dataclass(frozen=True)
class Rounds:
    """How clients train.

    Attributes:
        rounds: of sending out and taking the mean.
        share: of the clients that take part in a round, drawn anew each time.
        epochs: over a client's data, per round.
        batch_size, learning_rate: of a client's SGD.
        anchored: rounds in which anchors keep to their expert.
        seed: of everything random.
    """

    rounds: int = 40
    share: float = 0.5
    epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 0.1
    anchored: int = 10
    seed: int = 0


class FedJets(nn.Module):
    """The server's mixture.

    Args:
        experts: M networks `[N, D] -> [N, C]`, most often copies of one that is trained already.
        common: the common expert, `[N, D] -> features [N, H]`; frozen.
        width: H.
        k: experts that a client is sent, and that serve an input.

    Raises:
        RosterError: more experts per client than there are.
    """

    def __init__(self, experts: Sequence[nn.Module], common: nn.Module, width: int, k: int):
        super().__init__()
        if not 1 <= k <= len(experts):
            raise RosterError(f"fedjets: k={k} of {len(experts)} experts cannot be sent to a client")
        self.experts, self.k = nn.ModuleList(experts), k
        self.common = common.requires_grad_(False)
        self.gate = nn.Linear(width, len(experts))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def scores(self, x_ND: Tensor) -> Tensor:
        """How well each expert suits each input, [N, M]."""
        scores_NM: Tensor = self.gate(self.common(x_ND))
        return scores_NM

    def forward(self, x_ND: Tensor, among: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities of the classes, [N, C].

        Args:
            x_ND: inputs.
            among: the experts that are there (a client's); by default all, of which each input has its K best.
        """
        scores_NM = self.scores(x_ND)
        present = list(range(len(self.experts))) if among is None else list(among)
        off_M = torch.ones(len(self.experts), dtype=torch.bool)
        off_M[present] = False
        scores_NM = scores_NM.masked_fill(off_M, -torch.inf)
        if len(present) > self.k:
            worst_N1 = scores_NM.topk(self.k, dim=1).values[:, -1:]
            scores_NM = scores_NM.masked_fill(scores_NM < worst_N1, -torch.inf)
        weight_NM = scores_NM.log_softmax(1)
        told = [weight_NM[:, each, None] + self.experts[each](x_ND).log_softmax(1) for each in present]
        return torch.logsumexp(torch.stack(told), 0)

    @torch.no_grad()
    def sent_to(self, client: Client) -> list[int]:
        """The K experts that the gate prefers on average over a client's data, in ascending order."""
        mean_M = self.scores(client.x_ND).softmax(1).mean(0)
        return sorted(mean_M.topk(self.k).indices.tolist())

    def traffic(self, experts: int) -> int:
        """Bytes of so many experts and the gate, one way."""
        each = sum(p.numel() * p.element_size() for p in self.experts[0].parameters())
        return experts * each + sum(p.numel() * p.element_size() for p in self.gate.parameters())


def mean_of(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of state dicts with the same names.

    Raises:
        RosterError: nothing to take the mean of, or names that differ.
    """
    if not states or any(state.keys() != states[0].keys() for state in states):
        raise RosterError("a mean is taken of state dicts with the same names, at least one")
    whole = sum(weights)
    return {
        name: sum((s[name] * (w / whole) for s, w in zip(states, weights, strict=True)), torch.zeros_like(tensor))
        for name, tensor in states[0].items()
    }


def train_client(server: FedJets, client: Client, among: Sequence[int], rounds: Rounds, anchor: bool) -> Returned:
    """A client's part of a round: SGD on its own data, of the experts that it was sent and the gate.

    Args:
        server: is left as it is.
        client: its data.
        among: the experts that it was sent.
        rounds: how it trains.
        anchor: whether the gate learns to choose the one expert that was sent.
    """
    mine = copy.deepcopy(server)
    trained = [p for each in among for p in mine.experts[each].parameters()] + list(mine.gate.parameters())
    optimizer = torch.optim.SGD(trained, lr=rounds.learning_rate)
    for _ in range(rounds.epochs):
        for places in torch.randperm(len(client.y_N)).split(rounds.batch_size):
            x_ND, y_N = client.x_ND[places], client.y_N[places]
            loss = F.nll_loss(mine(x_ND, among), y_N)
            if anchor:
                loss = loss + F.cross_entropy(mine.scores(x_ND), torch.full_like(y_N, among[0]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Returned({m: mine.experts[m].state_dict() for m in among}, mine.gate.state_dict(), len(client.y_N))


def aggregate(server: FedJets, returned: Sequence[Returned]) -> None:
    """Takes the means: each expert over the clients that had it, the gate over all; what nobody had stays."""
    server.gate.load_state_dict(mean_of([each.gate for each in returned], [each.examples for each in returned]))
    for index, expert in enumerate(server.experts):
        theirs = [each for each in returned if index in each.experts]
        if theirs:
            states = [each.experts[index] for each in theirs]
            expert.load_state_dict(mean_of(states, [each.examples for each in theirs]))


def federate(
    server: FedJets,
    clients: Sequence[Client],
    rounds: Rounds = Rounds(),
    anchors: Mapping[int, int] | None = None,
    told: Callable[[int, FedJets], None] | None = None,
) -> list[int]:
    """Trains the server's experts and gate, in place.

    Args:
        server: the mixture.
        clients: their data, which never leave them.
        rounds: how many, and how.
        anchors: experts by the numbers of the clients that keep to them in the first rounds.
        told: called after each round with its number and the server.

    Returns:
        Bytes that were sent in each round, both ways.
    """
    torch.manual_seed(rounds.seed)
    bytes_per_round = []
    for number, picked in enumerate(_picked(len(clients), rounds)):
        returned, sent = [], 0
        for index in picked:
            anchor = (anchors or {}).get(index) if number < rounds.anchored else None
            among = server.sent_to(clients[index]) if anchor is None else [anchor]
            returned.append(train_client(server, clients[index], among, rounds, anchor is not None))
            sent += 2 * server.traffic(len(among))
        aggregate(server, returned)
        bytes_per_round.append(sent)
        if told is not None:
            told(number, server)
    return bytes_per_round


@torch.no_grad()
def far_apart(server: FedJets, clients: Sequence[Client]) -> dict[int, int]:
    """An anchor for each expert, by the client's number: clients whose mean features are far from one another."""
    mean_ZH = torch.stack([server.common(client.x_ND).mean(0) for client in clients])
    found = [int((mean_ZH - mean_ZH.mean(0)).norm(dim=1).argmax())]
    while len(found) < min(len(server.experts), len(clients)):
        nearest_Z = torch.cdist(mean_ZH, mean_ZH[found]).amin(1)
        found.append(int(nearest_Z.argmax()))
    return {client: expert for expert, client in enumerate(found)}


def _picked(clients: int, rounds: Rounds) -> Iterator[list[int]]:
    count = max(1, round(rounds.share * clients))
    for _ in range(rounds.rounds):
        yield sorted(torch.randperm(clients)[:count].tolist())
