"""FedJETs' claim: clients that nobody has seen are answered better than by one network that all clients train."""

from __future__ import annotations

import copy
import statistics

import torch

from evidence.grounds.clients import FEATURES, Beside, clients_of
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.moe.federated import FedJets, Rounds, far_apart
from roster.recipes import find

EXPERTS, SENT, HIDDEN, ROUNDS = 5, 2, 24, 40


def _right(experts: int, sent: int, hidden: int, anchored: bool = False, many: int = ROUNDS) -> Contender:
    """Mean share, over five unseen clients, of the digits that are told.

    Args:
        experts: of the server.
        sent: of them, to a client.
        hidden: units of each.
        anchored: five clients keep to one expert each in the first rounds.
        many: rounds.
    """

    def run(draw: Draw) -> float:
        common, seen, unseen = clients_of(draw)
        torch.manual_seed(draw.luck)
        first = Beside(common, hidden)
        server = FedJets([copy.deepcopy(first) for _ in range(experts)], common, FEATURES, sent)
        anchors = far_apart(server, seen) if anchored else None
        rounds = Rounds(rounds=1 if draw.short else many, seed=draw.luck)
        find("fedjets").compose()(server, seen, rounds, anchors)
        with torch.no_grad():
            return statistics.mean(float((server(x).argmax(1) == y).float().mean()) for x, y in unseen)

    return run


ONE = _right(1, 1, SENT * HIDDEN)

CHECKS = (
    make_check(
        slug="fedjets",
        version=2,  # in version 1 the control was FedAvg of clients with all classes, which gains too little to be seen
        claim="Clients that nobody has seen are answered better, without training, than by one network of all clients.",
        ground="scikit-learn's digits; 20 clients of two or three classes, five unseen ones; 40 rounds, half take part",
        budget="equal traffic: two experts of 24 units, or one network of 48; the server holds 2.5 times as much",
        contenders={
            "FedJETs": ("5 experts, 2 sent, five anchors in the first ten rounds", _right(EXPERTS, SENT, HIDDEN, True)),
            "one network": ("FedAvg of one network, twice as wide", ONE),
            "no anchors": ("5 experts, 2 sent; nothing makes them different", _right(EXPERTS, SENT, HIDDEN)),
            "begun": ("control: FedAvg of one network for four rounds", _right(1, 1, SENT * HIDDEN, many=4)),
        },
        pairs=Pairs("FedJETs", "one network", "no anchors", "one network", "begun"),
        statistic=Statistic("mean share of unseen clients' digits that are told", "higher", 0.02),
    ),
)
