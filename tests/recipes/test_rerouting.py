"""Routes moved at test time: against finite differences, the formulas written out, and SciPy's minimiser."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import tiny
from moe.mixtures import mixture
from roster import RosterError
from roster.adapters.attach import attach
from roster.moe.adopting import adopt
from roster.moe.replacing import replace
from roster.recipes import find
from roster.routed.rerouting import Rerouting, _gaussian, onto_simplex


def adopted():
    return adopt(mixture("mixtral")).eval()


def replaced():
    torch.manual_seed(1)
    return replace(tiny.base(), "remoe").eval()


def adapters():
    model = tiny.base()
    torch.manual_seed(1)
    return attach(model, tiny.library(model, 3), find("mov-molora")({}), recipe="mov-molora").eval()


ROWS = [row.tolist() for row in tiny.tokens(5, 3, 6, 4, 5, 3, 6, 4)]


def truth(model, rows=ROWS):
    """What the model itself says after each row, so that all references are answered rightly."""
    with torch.no_grad():
        return [int(model(input_ids=torch.tensor([row])).logits[0, -1].argmax()) for row in rows]


def remembered(model, **options):
    rerouting = find("r2-t2")(options)(model)
    assert rerouting.remember(ROWS[:6], truth(model)[:6]) == 6
    return rerouting


@pytest.mark.parametrize("make", [adopted, replaced, adapters])
def test_ones_own_routes_give_ones_own_answer(make):
    model = make()
    rerouting = remembered(model)
    row = ROWS[6]
    with rerouting._listening() as own:
        expected = rerouting._logits([row])[0]
    with torch.no_grad():
        torch.testing.assert_close(expected, model(input_ids=torch.tensor([row])).logits[0, -1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rerouting._logits([row], own)[0], expected, atol=1e-5, rtol=1e-5)
    other = {site: each.flip(0) for site, each in own.items()}
    assert (rerouting._logits([row], other)[0] - expected).abs().max() > 1e-3
    # Tokens before the last keep their routes: what a shorter prompt says is what it said.
    moved = rerouting._logits([ROWS[6], ROWS[7]], other)
    torch.testing.assert_close(moved[1], rerouting._logits([ROWS[7]], other)[0], atol=1e-5, rtol=1e-5)


def test_only_right_answers_are_references():
    model = adopted()
    answers = truth(model)
    answers[1] = (answers[1] + 1) % tiny.VOCAB
    rerouting = find("r2-t2")({})(model)
    assert rerouting.remember(ROWS, answers) == 7
    assert ROWS[1] not in rerouting.references.ids
    assert {tuple(each.shape) for each in rerouting.references.routes.values()} == {(7, 8)}


def kernel(distance):
    return np.exp(-0.5 * (distance / np.sort(distance)[(len(distance) - 1) // 2]) ** 2)


def neighbours(rerouting, row, count):
    """(places of the nearest references, their kernel) by the model's own mean states."""
    with torch.no_grad():
        states = [
            rerouting.model(input_ids=torch.tensor([each]), output_hidden_states=True).hidden_states[-1][0].mean(0)
            for each in [row, *rerouting.references.ids]
        ]
    distance = np.array([float((each - states[0]).norm()) for each in states[1:]])
    near = np.argsort(distance)[:count]
    return near, kernel(distance[near])


def test_a_step_of_the_gradient_is_that_of_finite_differences():
    model = adopted()
    rerouting = remembered(model, steps=1, rate=0.05, neighbours=3)
    row = ROWS[7]
    near, weight = neighbours(rerouting, row, 3)
    with rerouting._listening() as own:
        rerouting._logits([row])
    site = next(iter(own))

    def loss(route):
        total = 0.0
        for j, k in zip(near, weight, strict=True):
            logits = rerouting._logits([rerouting.references.ids[j]], route)[0].double().detach()
            total += k * float(-logits.log_softmax(0)[rerouting.references.answers[j]])
        return total / weight.sum()

    grad = []
    for expert in range(8):
        step = torch.zeros(8)
        step[expert] = 1e-2
        up, down = {**own, site: own[site] + step}, {**own, site: own[site] - step}
        grad.append((loss(up) - loss(down)) / 2e-2)
    expected = onto_simplex(own[site] - 0.05 * torch.tensor(grad, dtype=torch.float32), 1.0)
    torch.testing.assert_close(rerouting.reroute(row)[site], expected, atol=1e-3, rtol=1e-2)
    found = find("r2-t2")({"steps": 10, "rate": 0.1, "neighbours": 3})(model)
    found.references = rerouting.references
    assert loss(found.reroute(row)) < loss(own)


def test_kernel_regression_is_its_formula():
    model = adopted()
    rerouting = remembered(model, variant="kernel", neighbours=4)
    row = ROWS[7]
    near, weight = neighbours(rerouting, row, 4)
    with rerouting._listening() as own:
        rerouting._logits([row])
    found = rerouting.reroute(row)
    shares = set()
    for site, table in rerouting.references.routes.items():
        mean = (torch.tensor(weight, dtype=torch.float32)[:, None] * table[near]).sum(0) / weight.sum()
        fits = [
            a for a in (0, 0.25, 0.5, 0.75, 1) if torch.allclose(found[site], a * own[site] + (1 - a) * mean, atol=1e-4)
        ]
        shares.add(fits[0])
    assert len(shares) == 1  # one for all sites


def test_only_the_ratio_of_distances_counts():
    distance_N = torch.tensor([0.5, 1.0, 2.0, 3.0])
    for size in (1e-3, 1.0, 1e3):
        torch.testing.assert_close(_gaussian(size * distance_N), torch.exp(-0.5 * distance_N.square()))
    assert _gaussian(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]


def test_mode_finding_goes_to_a_mean_of_the_neighbours():
    model = adopted()
    rerouting = remembered(model, variant="mode", neighbours=4, steps=1)
    row = ROWS[7]
    near, _ = neighbours(rerouting, row, 4)
    with rerouting._listening() as own:
        rerouting._logits([row])
    table = torch.cat([each[near] for each in rerouting.references.routes.values()], dim=1)
    r = torch.cat(list(own.values()))
    weight = torch.tensor(kernel((table - r).norm(dim=1).numpy()))
    expected = (weight[:, None] * table).sum(0) / weight.sum()
    torch.testing.assert_close(torch.cat(list(rerouting.reroute(row).values())), expected.float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("variant", ["gradient", "kernel", "mode"])
def test_no_weight_changes_and_the_order_of_samples_does_not_count(variant, tmp_path):
    model = replaced()
    before = {name: hashlib.sha256(t.numpy().tobytes()).digest() for name, t in model.state_dict().items()}
    rerouting = remembered(model, variant=variant, steps=2)
    forth = [rerouting.answer(row) for row in ROWS]
    back = [rerouting.answer(row) for row in reversed(ROWS)][::-1]
    assert all(map(torch.equal, forth, back))
    assert before == {name: hashlib.sha256(t.numpy().tobytes()).digest() for name, t in model.state_dict().items()}
    assert all(parameter.grad is None for parameter in model.parameters())
    rerouting.save(tmp_path / "references")
    again = find("r2-t2")({"variant": variant, "steps": 2})(model).load(tmp_path / "references")
    assert again.references.ids == rerouting.references.ids
    assert torch.equal(again.answer(ROWS[7]), forth[7])


def test_the_projection_is_the_nearest_point_of_the_simplex():
    for total in (1.0, 0.6):
        r_E = torch.randn(5)
        best = minimize(
            lambda p, r: ((p - r) ** 2).sum(),
            np.full(5, total / 5),
            args=(r_E.numpy(),),
            bounds=[(0, None)] * 5,
            constraints={"type": "eq", "fun": lambda p, total=total: p.sum() - total},
        )
        np.testing.assert_allclose(onto_simplex(r_E, total).numpy(), best.x, atol=1e-4)


def test_refused(tmp_path):
    model = replaced()
    with pytest.raises(RosterError, match="has no references"):
        Rerouting(model).reroute(ROWS[0])
    with pytest.raises(RosterError, match="no router of this model is called 'here'"):
        Rerouting(model, sites=["here"])
    with pytest.raises(RosterError, match="must be 'gradient', 'kernel' or 'mode'"):
        Rerouting(model, "other")
    remembered(model).save(tmp_path / "saved")
    with pytest.raises(RosterError, match="of other routers"):
        Rerouting(adapters()).load(tmp_path / "saved")
