"""Placements against brute force, on held-out routes, and as checkpoints that compute the same."""

import itertools
import json

import numpy as np
import pytest
import torch

from moe.mixtures import mixture
from offload.holding import planted, prompts, saved, whole
from roster.errors import RosterError
from roster.offload.recorder import fingerprint
from roster.place.cost import cost_of
from roster.place.exflow import exflow, objective_of
from roster.place.machine import Machine
from roster.place.moetuner import assign_groups, balance, deviation, largest_pairs, moetuner
from roster.place.permuting import plan_permuted
from roster.place.placement import Placement, from_devices, read_placement
from roster.place.replicas import replicate
from roster.place.simple import contiguous, greedy, random
from roster.place.traffic import Traffic, traffic_of
from roster.weights import run

PLANTED = {"sequences": 30, "layers": 5, "experts": 16, "groups": 4, "apart": True}
HELD_OUT = [planted(seed=seed, **PLANTED).split(seed=seed) for seed in range(3)]


def toy(seed, layers=3, experts=4):
    draw = np.random.default_rng(seed)
    pairs = draw.integers(0, 9, (layers - 1, experts, experts)).astype(float)
    load = np.concatenate([pairs[0].sum(1)[None], pairs.sum(1)])
    return Traffic(load, pairs, np.zeros((layers, experts, experts)))


def all_devices(experts, devices):
    """Every way to give each device as many of one layer's experts."""
    base = np.repeat(np.arange(devices), experts // devices)
    return [np.array(each) for each in sorted(set(itertools.permutations(base.tolist())))]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("devices", "nodes"), [(2, 1), (4, 2)])
def test_exflow_is_as_good_as_brute_force_and_proves_it(seed, devices, nodes):
    traffic, machine = toy(seed), Machine(devices, nodes)
    every = all_devices(4, devices)
    best = min(objective_of(np.stack(each), traffic, machine) for each in itertools.product(every, repeat=3))
    found = exflow(traffic, machine, seconds=20)
    assert found.objective == pytest.approx(best, abs=1e-9)
    assert found.gap == pytest.approx(0.0, abs=1e-6)
    assert sum(cost_of(found.placement, traffic).to_json()[each] for each in ("crossings", "node_crossings")) == (
        pytest.approx(found.objective)
    )


def test_without_the_integer_program_the_search_is_near_and_the_bound_below(monkeypatch):
    monkeypatch.setattr("roster.place.exflow._LIMIT", 0)
    for seed in range(4):
        traffic, machine = toy(seed), Machine(2)
        every = all_devices(4, 2)
        best = min(objective_of(np.stack(each), traffic, machine) for each in itertools.product(every, repeat=3))
        found = exflow(traffic, machine)
        assert best <= found.objective + 1e-9
        assert found.bound <= best + 1e-9
        assert found.objective <= 1.1 * best


@pytest.mark.parametrize("seed", range(4))
def test_moetuners_first_program_is_as_good_as_brute_force(seed, monkeypatch):
    monkeypatch.setattr("roster.place.moetuner.GAP", 0.0)
    load_E = np.random.default_rng(seed).integers(1, 60, 6).astype(float)
    best = min(deviation(load_E, each, 2) for each in all_devices(6, 2))
    group_E, value = balance(load_E, 2, seconds=10)
    assert np.bincount(group_E).tolist() == [3, 3]
    assert value == pytest.approx(best)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("nodes", [1, 3])
def test_moetuners_second_program_is_as_good_as_brute_force(seed, nodes):
    flow_LGG = np.random.default_rng(seed).integers(0, 50, (2, 3, 3)).astype(float)
    machine = Machine(3, nodes)
    orders = [np.array(each) for each in itertools.permutations(range(3))]
    best = min(largest_pairs(flow_LGG, np.stack(each), machine) for each in itertools.product(orders, repeat=3))
    device_LG, bound = assign_groups(flow_LGG, machine, seconds=20, starts=2, seed=0)
    assert largest_pairs(flow_LGG, device_LG, machine) == pytest.approx(best)
    assert bound == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("routes", HELD_OUT, ids=["0", "1", "2"])
def test_affinity_on_routes_that_were_set_apart(routes):
    learned, judged = (traffic_of(each) for each in routes)
    machine = Machine(8, 2)
    plain = cost_of(contiguous(learned, machine).placement, judged)
    others = [cost_of(random(learned, machine, seed).placement, judged) for seed in range(20)]
    flow = cost_of(exflow(learned, machine, seconds=2, starts=4).placement, judged)
    assert flow.crossings <= 0.9 * plain.crossings
    assert flow.crossings < min(each.crossings for each in others)
    assert flow.node_crossings < min(each.node_crossings for each in others)


@pytest.mark.parametrize("seed", range(3))
def test_loads_on_routes_that_were_set_apart(seed):
    """Every sequence has the same favourites."""
    routes = planted(seed=seed, **{**PLANTED, "groups": 1, "apart": False}).split(seed=seed)
    learned, judged = (traffic_of(each) for each in routes)
    machine = Machine(8, 2)
    plain = cost_of(contiguous(learned, machine).placement, judged)
    others = [cost_of(random(learned, machine, each).placement, judged) for each in range(20)]
    tuned = moetuner(learned, machine, seconds=2)
    assert 0 <= tuned.gap < 1
    found = cost_of(tuned.placement, judged)
    assert found.busiest <= 0.95 * plain.busiest
    assert found.exchange <= 0.95 * np.mean([each.exchange for each in others])
    assert cost_of(greedy(learned, machine, apart=0.1).placement, judged).busiest <= 0.9 * plain.busiest
    copied = cost_of(replicate(contiguous(learned, machine).placement, learned, 1), judged)
    assert copied.busiest < 0.9 * plain.busiest


def test_traffic_and_cost_are_what_the_tokens_do():
    """Token by token, with every pair of its experts."""
    routes, machine = planted(sequences=3, length=12, experts=8, layers=3), Machine(4, 2)
    traffic = traffic_of(routes)
    placement = random(traffic, machine, seed=3).placement
    device_LE = placement.shares().argmax(2)
    steps = apart = nodes = 0
    for token in routes.chosen_NLK:
        for layer in range(2):
            for first, second in itertools.product(token[layer], token[layer + 1]):
                here, there = device_LE[layer, first], device_LE[layer + 1, second]
                steps += 1
                apart += here != there
                nodes += here // 2 != there // 2
    cost = cost_of(placement, traffic)
    assert (cost.crossings, cost.node_crossings) == (pytest.approx(apart / steps), pytest.approx(nodes / steps))
    assert traffic.load_LE.sum() == routes.decisions
    assert traffic_of(routes, top=1).load_LE.sum() == routes.decisions / 2
    # One pair of devices carries everything: seconds are its tokens' bytes over its bandwidth.
    pairs = np.zeros((1, 2, 2))
    pairs[0, 0, 1] = 10
    two = Traffic(np.array([[10.0, 0], [0, 10]]), pairs, np.zeros((2, 2, 2)))
    slow = Machine(2, 2, within=4.0, between=2.0)
    assert cost_of(contiguous(two, slow).placement, two, nbytes=3.0).exchange == pytest.approx(10 * 3 / 2)
    assert cost_of(contiguous(two, Machine(2, 1, within=4.0)).placement, two, nbytes=3.0).exchange == pytest.approx(7.5)


def test_replicas_fill_spare_slots_with_hot_experts():
    load = np.array([[100.0, 1, 1, 1], [1, 1, 1, 97]])
    traffic = Traffic(load, np.ones((1, 4, 4)), np.zeros((2, 4, 4)))
    placement = replicate(contiguous(traffic, Machine(2)).placement, traffic, 1)
    assert placement.slot_LP.shape == (2, 6)
    assert [list(each).count(hot) for each, hot in zip(placement.slot_LP.tolist(), (0, 3), strict=True)] == [2, 2]
    shares = placement.shares()
    assert shares.sum(2) == pytest.approx(np.ones((2, 4)))
    assert shares[0, 0].tolist() == [0.5, 0.5]
    with pytest.raises(RosterError, match="more than the 4 experts"):
        replicate(contiguous(traffic, Machine(2)).placement, traffic, 3)


def test_files_for_engines_and_back(tmp_path):
    traffic = toy(0)
    placement = random(traffic, Machine(2), 1).placement
    files = placement.write(tmp_path / "placement.json", {"method": "random"})
    assert [each.name for each in files] == ["placement.json", "placement.json.map.json", "placement.json.npy"]
    assert np.array_equal(read_placement(files[0]).slot_LP, placement.slot_LP)
    only = json.loads(files[1].read_text())
    assert list(only) == ["physical_to_logical_map"]
    assert np.array_equal(np.load(files[2], allow_pickle=False), only["physical_to_logical_map"])
    for bad in (
        "{}",
        "[]",
        "no",
        '{"devices": 2, "nodes": 1, "experts": 4, "physical_to_logical_map": [[0, 1, 2, 2]]}',
    ):
        (tmp_path / "bad").write_text(bad)
        with pytest.raises(RosterError):
            read_placement(tmp_path / "bad")


def test_what_cannot_be_placed():
    traffic = toy(0)
    with pytest.raises(RosterError, match="4 experts do not divide into 3 devices"):
        exflow(traffic, Machine(3))
    with pytest.raises(RosterError, match="do not divide into 3 nodes"):
        Machine(8, 3)
    with pytest.raises(RosterError, match="another number of experts"):
        from_devices(np.array([[0, 0, 0, 1]]), Machine(2))
    with pytest.raises(RosterError, match="does not hold each"):
        Placement(np.array([[0, 1, 2, 2]]), Machine(2), 4)
    with pytest.raises(RosterError, match="at least two layers"):
        traffic_of(planted(layers=1))


@pytest.mark.parametrize(
    ("name", "fused"), [("mixtral", False), ("mixtral", True), ("qwen2_moe", False), ("gpt_oss", True)]
)
def test_a_checkpoint_in_another_order_computes_the_same(name, fused, tmp_path):
    cls = saved(tmp_path / "m", name, fused=fused)
    draw = np.random.default_rng(0)
    placement = Placement(np.stack([draw.permutation(8), draw.permutation(8)]), Machine(4), 8)
    run(plan_permuted(tmp_path / "m", placement), tmp_path / "p")
    before, after = whole(cls, tmp_path / "m"), whole(cls, tmp_path / "p")
    seen = {}
    for model in (before, after):
        gate = next(child for n, child in model.model.layers[1].mlp.named_children() if n in ("gate", "router"))
        gate.register_forward_hook(lambda _, args, out, model=model: seen.update({id(model): out[-1]}))
    with torch.no_grad():
        torch.testing.assert_close(after(**prompts()).logits, before(**prompts()).logits, atol=2e-6, rtol=2e-5)
    # The very permutation: what was expert slot[p] is expert p now.
    new = torch.from_numpy(placement.slot_LP[1])[seen[id(after)]]
    assert torch.equal(new, seen[id(before)])
    old, moved = before.state_dict(), after.state_dict()
    key = "model.layers.0.mlp.experts.down_proj"
    assert torch.equal(moved[key], old[key][torch.from_numpy(placement.slot_LP[0])])
    wanted = {**prompts(), "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(after.generate(**wanted), before.generate(**wanted))


def test_checkpoints_that_must_keep_their_order(tmp_path):
    placement = Placement(np.tile(np.arange(8), (2, 1)), Machine(4), 8)
    mixture("deepseek_v3").save_pretrained(tmp_path / "grouped")
    with pytest.raises(RosterError, match="groups of neighbouring experts"):
        plan_permuted(tmp_path / "grouped", placement)
    saved(tmp_path / "two")
    own = fingerprint(whole(saved(tmp_path / "own", seed=1), tmp_path / "own", dtype="bfloat16"))
    plan_permuted(tmp_path / "own", placement, own)
    with pytest.raises(RosterError, match="recorded from another model"):
        plan_permuted(tmp_path / "two", placement, own)
    saved(tmp_path / "m", num_hidden_layers=3)
    with pytest.raises(RosterError, match=r"is for 2 layers of 8 experts; .* has \[8, 8, 8\]"):
        plan_permuted(tmp_path / "m", placement)
    twice = Placement(np.tile(np.repeat(np.arange(8), 2), (2, 1)), Machine(4), 8)
    with pytest.raises(RosterError, match="place without spare slots"):
        plan_permuted(tmp_path / "m", twice)
