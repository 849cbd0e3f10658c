"""Caches of experts on recorded routes: policies against brute force, predictors, the simulator against the engine."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from offload.holding import budget, planted, prompts, saved
from roster.errors import RosterError
from roster.offload import load, read_routes, recording, simulate
from roster.offload.expertflow import regroup, train_network
from roster.offload.loading import find_strategy
from roster.offload.policies import ARC, FIFO, LFU, LRU
from roster.offload.residency import by_layer, pooled
from roster.offload.simulator import bound
from roster.offload.strategy import PLAIN, Geometry
from roster.offload.traces import NOBODY, Routes

STRATEGIES = ("lru", "lfu", "arc", "fifo", "fate-offload", "moe-infinity", "expertflow", "moe-deployment")


def routes_of(sequence, experts=6):
    """One layer, one expert a token."""
    chosen = np.array(sequence, np.int16).reshape(-1, 1, 1)
    N = len(chosen)
    ahead = np.full((N, 1, 3), NOBODY, np.int16)
    starts, prompt = np.array([0, N], np.int32), np.array([1], np.int32)
    return Routes(chosen, ahead, np.arange(N, dtype=np.int32), starts, prompt, Geometry((experts,), 1, N), "none")


def fewest_misses(sequence, slots):
    """Every possible eviction is tried."""
    states = {frozenset(): 0}
    for need in sequence:
        after = {}
        for held, misses in states.items():
            if need in held:
                after[held] = min(after.get(held, 10**9), misses)
                continue
            outs = [()] if len(held) < slots else [(each,) for each in held]
            for out in outs:
                now = held - set(out) | {need}
                after[now] = min(after.get(now, 10**9), misses + 1)
        states = after
    return min(states.values())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slots", [2, 3])
def test_belady_is_the_best_that_any_eviction_could_be(seed, slots):
    sequence = np.random.default_rng(seed).integers(0, 5, 24).tolist()
    routes = routes_of(sequence)
    assert bound(routes, slots).total.misses == fewest_misses(sequence, slots)
    for name in PLAIN:
        assert simulate(routes, find_strategy(name), slots).total.misses >= fewest_misses(sequence, slots)


def misses(policy, sequence, slots):
    held, count = set(), 0
    for need in sequence:
        key = (0, need)
        if key in held:
            policy.hit(key)
            continue
        count += 1
        getattr(policy, "missed", lambda _: None)(key)
        if len(held) == slots:
            held.discard(policy.victim(()))
        held.add(key)
        policy.admit(key)
        assert len(held) <= slots
    return count


def reference(rule, sequence, slots):
    """The textbook definitions of LRU, FIFO and LFU, by going through all that is held."""
    held, count, last, came, uses = set(), 0, {}, {}, {}
    for now, need in enumerate(sequence):
        uses[need] = uses.get(need, 0) + 1
        if need not in held:
            count += 1
            if len(held) == slots:
                order = {"lru": lambda e: last[e], "fifo": lambda e: came[e], "lfu": lambda e: (uses[e], last[e])}
                held.discard(min(held, key=order[rule]))
            held.add(need)
            came[need] = now
        last[need] = now
    return count


@pytest.mark.parametrize("seed", range(4))
def test_policies_do_what_textbooks_say(seed):
    sequence = (np.random.default_rng(seed).zipf(1.3, 300) % 12).tolist()
    for slots in (3, 5):
        for rule, policy in (("lru", LRU()), ("fifo", FIFO()), ("lfu", LFU())):
            assert misses(policy, sequence, slots) == reference(rule, sequence, slots), rule


def test_arc_survives_a_scan_that_flushes_lru():
    loop, scans = [0, 1, 0, 1, 0, 1, 2, 2], itertools.count(10)
    sequence = [each for _ in range(40) for each in [*loop, *(next(scans) for _ in range(4))]]
    assert misses(ARC(4), sequence, 4) < 0.8 * misses(LRU(), sequence, 4)


def test_whoever_must_stay_stays():
    for policy in (LRU(), LFU(), ARC(3), FIFO()):
        for expert in range(3):
            policy.admit((0, expert))
        assert policy.victim({(0, 0), (0, 1), (0, 2)}) is None
        assert policy.victim({(0, 0), (0, 2)}) == (0, 1)
        policy.drop((0, 0))
        assert policy.victim(()) == (0, 2)
        assert policy.victim(()) is None


def test_slots_are_divided():
    assert pooled(20, (8, 8)).slots == (16,)
    assert by_layer(10, (8, 8, 8)).total == 10
    assert by_layer(100, (8, 4)).slots == (8, 4)
    slots = by_layer(16, (8,) * 4, shallow=1.0).slots
    assert sum(slots) == 16
    assert list(slots) == sorted(slots, reverse=True)
    assert slots[0] >= slots[-1] + 2
    with pytest.raises(RosterError, match="3 slots are too few for 4 layers"):
        by_layer(3, (8,) * 4)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_on_routes(name):
    learned, routes = planted(sequences=16).split(seed=1)
    few = simulate(routes, find_strategy(name), 12, learned)
    many = simulate(routes, find_strategy(name), 32, learned, nbytes=10)
    needs = bound(routes, 12).total.needs
    assert few.total.needs == many.total.needs == needs
    assert few.tokens == len(routes.ids_N)
    if name in PLAIN:  # of the rules that only look back none is better than the one that knows the future
        decoding = planted(sequences=6, prompt=1)
        assert simulate(decoding, find_strategy(name), 12).total.misses >= bound(decoding, 12).total.misses
    assert many.total.misses <= 32
    assert few.total.hit_rate < many.total.hit_rate
    assert many.total.nbytes == 10 * (many.total.misses + many.total.ahead)
    assert few.total.misses + few.total.ahead >= bound(routes, 12, pool=True).total.misses


def test_predictors_are_worth_their_reading():
    """Planted routes: groups of sequences with favourites, and a next gate that is mostly right."""
    learned, routes = planted(sequences=24, groups=3).split(seed=0)
    rate = {name: simulate(routes, find_strategy(name), 16, learned).total.hit_rate for name in STRATEGIES}
    assert rate["fate-offload"] > rate["lru"] + 0.1
    assert rate["moe-infinity"] > rate["lru"] + 0.02
    pool = simulate(routes, find_strategy("lru", {"pool": True}), 16).total.hit_rate  # expertflow's, without foresight
    assert rate["expertflow"] > pool + 0.02
    # Without the gate's foresight, the same slots and policy.
    blind = Routes(**{**routes.__dict__, "ahead_NLA": np.full_like(routes.ahead_NLA, NOBODY)})
    assert simulate(blind, find_strategy("fate-offload"), 16).total.hit_rate < rate["fate-offload"] - 0.1


def test_expertflow_learns_paths_from_ids():
    learned, routes = planted(sequences=30, groups=3, length=60).split(seed=0)
    network = train_network(learned, passes=15)
    ids = torch.from_numpy(routes.ids_N.astype("int64")).view(routes.sequences, -1)
    with torch.no_grad():
        top = network(ids)[0].topk(4, dim=-1).indices.flatten(0, 1).numpy()
    popular = np.argsort(-np.sum(list(learned.matrices()), axis=0), axis=1)[:, :4]
    recall = [
        (routes.chosen_NLK[:, :, :, None] == guess[:, :, None, :]).any(-1).mean() for guess in (top, popular[None])
    ]
    assert recall[0] > recall[1] + 0.1


def test_regrouped_batches_visit_fewer_experts():
    draw = torch.Generator().manual_seed(0)
    favourites = torch.rand(2, 64, generator=draw) < 0.3
    paths = favourites[torch.arange(16) % 2] & (torch.rand(16, 64, generator=draw) < 0.8)
    groups = regroup(paths, 2)
    assert sorted(itertools.chain(*groups)) == list(range(16))
    assert [len(each) for each in groups] == [8, 8]

    def visited(split):
        return sum(int(paths[each].any(0).sum()) for each in split)

    assert visited(groups) < 0.8 * visited([list(range(8)), list(range(8, 16))])
    with pytest.raises(RosterError, match="cannot be split"):
        regroup(paths, 17)


# ---- recorded from models --------------------------------------------------------------------------------------


def test_the_simulator_says_what_the_engine_does(tmp_path):
    """LRU, layer by layer, on the routes of the very generation that the engine served."""
    saved(tmp_path, "qwen2_moe")
    model = load(tmp_path, budget(tmp_path, 8), policy="lru")
    ids = prompts()["input_ids"][:1]
    answer = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None)
    served = model.offload.statistics.layers
    with recording(model, prompt=ids.shape[1]) as recorder, torch.no_grad():
        model(answer[:, :-1])
    model.offload.close()
    simulated = simulate(recorder.routes(), find_strategy("lru"), 8)
    for layer, (ours, theirs) in enumerate(zip(simulated.layers, served, strict=True)):
        # The engine went on to count the recorded call; its own was first.
        assert ours.needs <= theirs.needs, layer
    again = load(tmp_path, budget(tmp_path, 8), policy="lru")
    again.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None)
    for ours, theirs in zip(simulated.layers, again.offload.statistics.layers, strict=True):
        assert (ours.needs, ours.hits, ours.misses) == (theirs.needs, theirs.hits + theirs.late, theirs.misses)
    again.offload.close()


def test_routes_are_the_models_own_and_survive_the_disk(tmp_path):
    from moe.mixtures import mixture

    model, seen = mixture("mixtral"), {}
    for index, layer in enumerate(model.model.layers):
        layer.mlp.experts.register_forward_pre_hook(lambda _, args, index=index: seen.update({index: args}))
    inputs = prompts("right")
    with recording(model, prompt=3) as recorder, torch.no_grad():
        model(**inputs)
    routes = recorder.routes()
    keep = inputs["attention_mask"].bool().flatten()
    for index, (hidden, chosen, _) in seen.items():
        assert np.array_equal(routes.chosen_NLK[:, index], chosen[keep].numpy())
        if index == 0:
            ahead = model.model.layers[1].mlp.gate(hidden)[2][keep].numpy()
            assert np.array_equal(routes.ahead_NLA[:, 1, :2], ahead)
    assert routes.starts_S.tolist() == [0, 9, 14]
    assert routes.prompts_S.tolist() == [3, 3]
    assert routes.decisions == 14 * 2 * 2
    assert np.array_equal(routes.ids_N, inputs["input_ids"].flatten()[keep].numpy())
    routes.write(tmp_path / "routes.safetensors")
    again = read_routes(tmp_path / "routes.safetensors")
    for name, value in routes.__dict__.items():
        assert (
            np.array_equal(getattr(again, name), value)
            if isinstance(value, np.ndarray)
            else value == getattr(again, name)
        )
    counts = list(again.matrices())
    assert counts[0].sum() == 9 * 2 * 2
    assert counts[0][0, routes.chosen_NLK[0, 0, 0]] > 0


def test_routes_of_another_model_and_damaged_files(tmp_path):
    saved(tmp_path / "one")
    saved(tmp_path / "other", seed=1)
    model = load(tmp_path / "one", budget(tmp_path / "one", 4))
    with recording(model) as recorder, torch.no_grad():
        model(prompts()["input_ids"])
    model.offload.close()
    routes = recorder.routes()
    load(tmp_path / "one", "1GB", policy="moe-infinity", routes=routes).offload.close()
    with pytest.raises(RosterError, match="recorded from another model"):
        load(tmp_path / "other", "1GB", policy="moe-infinity", routes=routes)
    with pytest.raises(RosterError, match="no recorded routes"):
        read_routes(tmp_path / "none")
    with pytest.raises(RosterError, match="holds no routes"):
        read_routes(tmp_path / "one" / "model.safetensors")
    file = tmp_path / "routes"
    routes.write(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(RosterError, match="cannot be read"):
        read_routes(file)
    from safetensors import safe_open

    routes.write(file)
    with safe_open(file, "numpy") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    tensors["chosen_NLK"] = tensors["chosen_NLK"] + 100
    save_file(tensors, file, about)
    with pytest.raises(RosterError, match="is damaged"):
        read_routes(file)
    with recording(model) as nothing:
        pass
    with pytest.raises(RosterError, match="not called"):
        nothing.routes()
