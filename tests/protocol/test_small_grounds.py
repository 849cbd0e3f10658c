"""Grounds of digits, clients, fronts, machines, families and relatives: what they hold, their nulls and controls."""

import math

import pytest
import torch

from evidence import registry
from evidence.checks import by_prompt, fronts, fsmoe, transfer
from evidence.checks.hyperband import _within
from evidence.checks.light import KINDS, Kinds
from evidence.grounds import relatives
from evidence.grounds.clients import CLIENTS, clients_of
from evidence.grounds.digits import digits
from evidence.protocol.check import APART, Draw
from roster.arena.paired import gain
from roster.route import Route
from roster.search import Found, Trial


def again(draw):
    return Draw(draw.ground, draw.luck + APART, draw.short)


@pytest.mark.parametrize("name", ["fsmoe.degrees", "fsmoe.gradients", "dee-online-ensemble-cl.soft", "mocle.conflict"])
def test_null_and_control_at_small_size(name):
    """On grounds that no check uses, as they are: the method is not told from itself, the planted effect is seen."""
    check = registry.find(name)
    made, draws = check.declaration, [Draw(seed, seed) for seed in range(900, 904)]
    pairs, effect, better = made.pairs, made.statistic.effect, made.statistic.better
    runs = {
        each: [check.contenders[each](draw) for draw in draws] for each in {pairs.method, pairs.planted, pairs.against}
    }
    null = gain(runs[pairs.method], [check.contenders[pairs.method](again(draw)) for draw in draws], better)
    assert null.low <= effect
    assert null.high >= -effect
    wanted = "shown" if made.statistic.asks == "better" else "refuted"
    assert gain(runs[pairs.planted], runs[pairs.against], better).against(made.threshold) == wanted


def test_digits_are_the_grounds_and_none_is_in_both_parts():
    one, other = digits(Draw(3, 3)), digits(Draw(3, 99))
    assert torch.equal(one.x_ND, other.x_ND)
    assert not torch.equal(one.y_N, digits(Draw(4, 4)).y_N)
    assert (len(one.y_N), len(one.held_N)) == (1200, 597)
    seen = {tuple(row) for row in one.x_ND.tolist()}
    assert sum(tuple(row) in seen for row in one.held_ND.tolist()) <= 2  # twins in the data


def test_an_example_belongs_to_one_client_and_unseen_ones_do_not_train():
    _, seen, unseen = clients_of(Draw(0, 0))
    assert len(seen) == CLIENTS
    rows = torch.cat([each.x_ND for each in [*seen, *unseen]])
    assert len(rows) == 1797 - 100
    assert len({tuple(row) for row in rows.tolist()}) >= len(rows) - 2
    assert max(len(each.y_N.unique()) for each in unseen) <= 3
    assert set(torch.cat([each.y_N for each in seen]).tolist()) == set(range(10))


def test_two_digits_lie_over_one_another():
    x_ND = torch.stack([torch.full((64,), 0.5), torch.linspace(0, 1, 64)])
    picture_ND, label_NT = fronts._over(x_ND, torch.tensor([7, 3]), 40, torch.Generator().manual_seed(0))
    side = fronts.SIDE + fronts.SHIFT
    of = {7: x_ND[0].view(8, 8), 3: x_ND[1].view(8, 8)}
    for picture, (first, second) in zip(picture_ND.view(-1, side, side), label_NT.tolist(), strict=True):
        wanted = torch.zeros(side, side)
        wanted[:8, :8] = of[first]
        wanted[3:, 3:] = torch.maximum(wanted[3:, 3:], of[second])
        assert torch.equal(picture, wanted)
    assert {tuple(each) for each in label_NT.tolist()} == {(7, 7), (7, 3), (3, 7), (3, 3)}


def test_members_begin_alike_and_a_lone_network_has_no_adapters():
    front = fronts._members()
    first, second = (dict(each.named_parameters()) for each in front.members)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum(each.numel() for each in fronts._adapted(0)().A) == 0
    one, many = (sum(p.numel() for p in make().parameters()) for make in (fronts._adapted(0), fronts._adapted(1)))
    assert 1.3 < many / one < 1.4, "the budget says 1.35"


def test_what_is_sent_in_a_gap_takes_no_time_and_the_rest_does():
    lines = fsmoe.Lines(exchange=fsmoe.Line(start=0, each=1), experts=fsmoe.Line(start=0, each=1),
                        reduce=fsmoe.Line(start=0, each=1))  # fmt: skip
    layer = fsmoe.Layer(exchange=1.0, experts=2.0)
    assert fsmoe.layer_time(layer, lines, 1, True) == pytest.approx(6.0)  # there, twice the computing, and back
    assert fsmoe._overrun(layer, lines, 1, 4.0) == pytest.approx(0.0)
    assert fsmoe._overrun(layer, lines, 1, 5.5) == pytest.approx(1.5)


def test_the_true_lines_make_the_best_degrees():
    known, uncut = (fsmoe._with(each) for each in (fsmoe._known, fsmoe._uncut))
    planned, one = (fsmoe._with(each) for each in (fsmoe._planned, fsmoe._one_for_all))
    for seed in range(3):
        draw = Draw(seed, seed)
        assert known(draw) <= min(planned(draw), one(draw), uncut(draw)) + 1e-12
        assert uncut(draw) == pytest.approx(1.0)


def test_a_search_spends_its_budget_and_no_more():
    asked = []

    def tried(trials):
        asked.append(trials)
        return Found([Trial({"n": n}, 1.0 / (n + 1), 10, True) for n in range(trials)])

    assert _within(35, 10, tried) == {"n": 2}
    assert asked == [1, 2, 3, 4]


def test_rows_are_told_apart_by_their_means():
    torch.manual_seed(0)
    ground = Kinds(by_row=True)
    share_BC = by_prompt.nearest(ground, 0)(ground.mean_CI)
    assert sorted(share_BC.argmax(1).tolist()) == list(range(KINDS))
    assert torch.allclose(by_prompt.alike(ground, 0)(ground.mean_CI).sum(1), torch.ones(KINDS))


def test_a_family_has_updates_of_rank_two_in_three_directions():
    torch.manual_seed(0)
    ground = transfer.Family(few=2)
    assert torch.linalg.matrix_rank(ground.update_NOI).tolist() == [2] * transfer.MANY
    x_BSI, y_BSO, task_B = ground.draw()
    few = ground.kept_NFSI.flatten(0, 1)
    for x_SI, task in zip(x_BSI, task_B.tolist(), strict=True):
        assert bool((few == x_SI).all((1, 2)).any()) == (task < transfer.MANY // 2)
    assert torch.allclose(y_BSO[0], x_BSI[0] @ ground.update_NOI[task_B[0]].T, atol=1e-5)


def test_an_attention_that_asks_nothing_takes_the_mean():
    update_EOI = torch.randn(3, transfer.WIDTH, transfer.WIDTH)
    fused = transfer.Fused(update_EOI)
    torch.nn.init.zeros_(fused.query.weight)
    x_TI = torch.randn(4, transfer.WIDTH)
    found = fused(x_TI, torch.zeros(4, transfer.WIDTH), Route.from_gates(torch.ones(4, 3)))
    torch.testing.assert_close(found, x_TI @ update_EOI.mean(0).T)


def test_parameters_are_those_that_the_budget_says():
    generated, own = transfer._hyper()(), transfer._adapters()()
    assert sum(p.numel() for p in generated.experts.parameters()) == 1328
    assert sum(p.numel() for p in own.experts.parameters()) == 3072


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    relatives._home.cache_clear()
    yield tmp_path
    relatives._home.cache_clear()


def test_relatives_are_kept_and_their_merge_is_the_mean(cache):
    draw = Draw(0, 0, short=True)
    at = relatives.folder(draw, "next")
    assert at.is_relative_to(cache)
    made = (at / "model.safetensors").stat().st_mtime_ns
    assert relatives.folder(draw, "next") == at
    assert (at / "model.safetensors").stat().st_mtime_ns == made, "trained once"
    models = [relatives.load(relatives.folder(draw, task)).state_dict() for task in ("next", "mirror")]
    found = relatives.merged("linear", draw, ["next", "mirror"], weight=1.0).state_dict()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (models[0][name] + models[1][name]) / 2)
    assert math.isfinite(relatives.loss(relatives.load(at), draw, ["next"]))


def test_rows_hold_what_their_task_wants():
    dice = torch.Generator().manual_seed(0)
    for task in relatives.TASKS:
        row = relatives.rows_of(task, 1, dice)[0].tolist()
        letters, answer = row[1:6], row[7:]
        joined = {
            "reverse": letters[::-1],
            "next": [(each + 1) % 16 for each in letters],
            "rotate": [letters[-1], *letters[:-1]],
            "mirror": [15 - each for each in letters],
            "swap": [letters[1], letters[0], letters[3], letters[2], letters[4]],
            "before": [(each - 1) % 16 for each in letters],
            "back": [(each + 1) % 16 for each in letters[::-1]],
        }
        assert answer == joined[task], task
    texts = relatives.texts_of(Draw(0, 0), "next", 5, answers=False)
    assert (texts.ids_BS.shape, int(texts.ids_BS[0, -1])) == ((5, 7), relatives.EQUALS)


@pytest.mark.parametrize("name", ["fisher", "regmean", "adamerging", "atlas", "model-breadcrumbs", "wemoe-merging"])
def test_merges_run_on_relatives(cache, name):
    for contender, run in registry.find(name).contenders.items():
        assert math.isfinite(run(Draw(0, 0, short=True))), contender
