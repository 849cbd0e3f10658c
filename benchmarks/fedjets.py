"""FedJETs on scikit-learn's digits: 20 clients with two or three classes each, five that nobody has seen.

    python benchmarks/fedjets.py [--seeds 5]

Contenders send as much per client: FedJETs (5 experts, 2 sent), the same without anchors, and FedAvg (one network,
twice as wide). All read the pixels beside the features of the common expert, a network trained on 100 other digits.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from roster.moe.federated import Client, FedJets, Rounds, far_apart, federate

M, K, HIDDEN, FEATURES, CLIENTS, UNSEEN, PUBLIC = 5, 2, 24, 32, 20, 5, 100


class Beside(nn.Module):
    """A network that reads an input and the common expert's features of it."""

    def __init__(self, common, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64 + FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        self.common = [common]  # not a part of what is sent

    def forward(self, x_ND):
        return self.net(torch.cat([x_ND, self.common[0](x_ND)], 1))


def common_expert(x_ND, y_N):
    net = nn.Sequential(nn.Linear(64, FEATURES), nn.ReLU(), nn.Linear(FEATURES, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(net(x_ND), y_N).backward()
        optimizer.step()
    return nn.Sequential(net[0], net[1]).requires_grad_(False)


def split(x_ND, y_N):
    """Clients of two or three classes each; every example belongs to one client."""
    classes = [torch.randperm(10)[: 2 + int(torch.rand(()) < 0.5)].tolist() for _ in range(CLIENTS + UNSEEN)]
    for each in range(10):  # every class has a client
        if not any(each in mine for mine in classes[:CLIENTS]):
            classes[each].append(each)
    homes = [[client for client, mine in enumerate(classes) if int(y) in mine] for y in y_N]
    home_N = torch.tensor([mine[int(torch.randint(len(mine), ()))] for mine in homes])
    return [Client(x_ND[home_N == client], y_N[home_N == client]) for client in range(CLIENTS + UNSEEN)]


def run(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x_ND, y_N = torch.tensor(digits.data / 16, dtype=torch.float32)[order], torch.tensor(digits.target)[order]
    common = common_expert(x_ND[:PUBLIC], y_N[:PUBLIC])
    clients = split(x_ND[PUBLIC:], y_N[PUBLIC:])
    seen, unseen = clients[:CLIENTS], clients[CLIENTS:]
    expert = Beside(common, HIDDEN)
    found = {}
    for name in ("fedjets", "without anchors", "fedavg"):
        if name == "fedavg":
            server = FedJets([Beside(common, K * HIDDEN)], common, FEATURES, 1)
        else:
            server = FedJets([copy.deepcopy(expert) for _ in range(M)], common, FEATURES, K)
        anchors = far_apart(server, seen) if name == "fedjets" else None
        sent = federate(server, seen, Rounds(seed=seed), anchors)
        with torch.no_grad():
            right = [float((server(c.x_ND).argmax(1) == c.y_N).float().mean()) for c in unseen if len(c.y_N)]
        found[name] = {"unseen": statistics.mean(right), "bytes": statistics.mean(sent)}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    found = [run(seed) for seed in range(parser.parse_args().seeds)]
    for name in found[0]:
        accuracies = [round(each[name]["unseen"], 4) for each in found]
        sent = round(statistics.mean(each[name]["bytes"] for each in found))
        line = {"name": name, "unseen": accuracies, "mean": round(statistics.mean(accuracies), 4), "bytes": sent}
        print(json.dumps(line))
