"""FedJETs: who is sent what, means by hand, what a round costs, and that unseen clients are served by the gate."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from roster import RosterError
from roster.moe.federated import Client, FedJets, Returned, Rounds, aggregate, far_apart, federate, mean_of
from roster.recipes import find

D, C, M, K = 4, 3, 4, 2


def server(seed=0, k=K):
    torch.manual_seed(seed)
    made = FedJets([nn.Linear(D, C) for _ in range(M)], nn.Identity(), D, k)
    nn.init.normal_(made.gate.weight)
    return made


def clients(count=8, seed=1):
    """Each knows one corner of the plane, where one of two rules holds."""
    torch.manual_seed(seed)
    found = []
    for index in range(count):
        x_ND = torch.randn(40, D)
        x_ND[:, 0] = 3.0 if index % 2 else -3.0
        y_N = (x_ND[:, 1] > 0).long()
        found.append(Client(x_ND, y_N if index % 2 else 1 - y_N))
    return found


def test_an_input_is_answered_by_its_best_experts():
    made, x_ND = server(), torch.randn(6, D)
    scores_NM = made.scores(x_ND)
    wanted = torch.zeros(6, C)
    for row, scores_M in enumerate(scores_NM):
        best = scores_M.topk(K)
        for weight, index in zip(best.values.softmax(0), best.indices.tolist(), strict=True):
            wanted[row] += weight * made.experts[index](x_ND[row]).softmax(0)
    torch.testing.assert_close(made(x_ND).exp(), wanted)
    one = made(x_ND, [2])
    torch.testing.assert_close(one, made.experts[2](x_ND).log_softmax(1))


def test_the_mean_is_over_those_who_had_an_expert():
    made = server()
    before = [{k: v.clone() for k, v in each.state_dict().items()} for each in made.experts]
    ones, threes = ({k: torch.full_like(v, n) for k, v in before[0].items()} for n in (1.0, 3.0))
    gate = made.gate.state_dict()
    aggregate(made, [Returned({0: ones, 1: ones}, gate, 10), Returned({0: threes}, gate, 30)])
    assert (made.experts[0].weight == 2.5).all()
    assert (made.experts[1].weight == 1.0).all()
    assert torch.equal(made.experts[2].weight, before[2]["weight"])
    with pytest.raises(RosterError, match="the same names"):
        mean_of([ones, {}], [1.0, 1.0])


def test_one_client_with_everything_is_plain_training():
    made, plain = FedJets([nn.Linear(D, C)], nn.Identity(), D, 1), nn.Linear(D, C)
    plain.load_state_dict(made.experts[0].state_dict())
    (client, *_) = clients()
    federate(made, [client], Rounds(rounds=3, share=1.0, batch_size=100, learning_rate=0.5))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(plain(client.x_ND), client.y_N).backward()
        optimizer.step()
    torch.testing.assert_close(made.experts[0].weight, plain.weight, atol=1e-6, rtol=1e-5)


def test_a_seed_decides_everything_that_is_drawn():
    trained = []
    for state in (3, 4):
        made, some = server(), clients()
        torch.manual_seed(state)
        federate(made, some, Rounds(rounds=2, share=0.5, batch_size=8))
        trained.append(made.gate.weight)
    assert torch.equal(*trained)


def test_a_round_costs_what_is_sent():
    made, some = server(), clients()
    expert, gate = 4 * (D * C + C), 4 * (D * M + M)
    sent = federate(made, some, Rounds(rounds=2, share=0.5, anchored=0))
    assert sent == [4 * 2 * (K * expert + gate)] * 2
    anchored = federate(made, some, Rounds(rounds=1, share=1.0), dict.fromkeys(range(8), 0))
    assert anchored == [8 * 2 * (expert + gate)], "an anchor is sent its own expert alone"
    assert all(len(made.sent_to(each)) == K for each in some)
    common = {id(p) for p in made.common.parameters()}
    assert not any(p.requires_grad for p in made.parameters() if id(p) in common)


def test_unseen_clients_are_served_without_training():
    """Two rules that contradict each other unless one knows where one is: a single linear network cannot hold both."""
    torch.manual_seed(0)
    many = FedJets([nn.Linear(D, C) for _ in range(2)], nn.Identity(), D, 1)
    one = FedJets([nn.Linear(D, C)], nn.Identity(), D, 1)
    some, unseen = clients(8), clients(4, seed=9)
    anchors = far_apart(many, some)
    assert sorted(anchors.values()) == [0, 1]
    assert len({client % 2 for client in anchors}) == 2, "one from either corner"
    recipe = find("fedjets")()
    recipe(many, some, Rounds(rounds=30, anchored=10, share=1.0, learning_rate=0.3), anchors)
    recipe(one, some, Rounds(rounds=30, anchored=0, share=1.0, learning_rate=0.3))
    right = [
        sum(float((made(c.x_ND).argmax(1) == c.y_N).float().mean()) for c in unseen) / len(unseen)
        for made in (many, one)
    ]
    assert right[0] > 0.9
    assert right[1] < 0.75


def test_runs_are_repeatable_and_wrong_numbers_refused():
    first, second = server(3), server(3)
    for made in (first, second):
        federate(made, clients(), Rounds(rounds=2, seed=5), {0: 1})
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RosterError, match="k=5 of 4 experts"):
        server(k=5)
