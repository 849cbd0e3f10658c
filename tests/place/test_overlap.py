"""FSMoE's model of overlap: what holds of any schedule, closed forms, best orders by trying all, gradients in gaps."""

from itertools import pairwise, permutations, product

import numpy as np
import pytest

from roster import RosterError
from roster.place.overlap import (
    BETWEEN,
    COMPUTE,
    DEGREES,
    WITHIN,
    Layer,
    Line,
    Lines,
    degree_of,
    layer_time,
    plan,
    play,
    read_profile,
)
from roster.recipes import find


def shapes(count, seed=0):
    """Machines and layers as they come: latencies of 10 to 500 microseconds, steps of 0.1 to 20 milliseconds."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        starts = 10.0 ** draw.uniform(-5, -3.3, 4)
        works = 10.0 ** draw.uniform(-4, -1.7, 4)
        lines = Lines(
            **{
                name: Line(start=start, each=work)
                for name, start, work in zip(("exchange", "gather", "experts", "reduce"), starts, works, strict=True)
            }
        )
        yield Layer(exchange=1.0, gather=1.0, experts=1.0, gradients=float(draw.uniform(0, 2))), lines


def test_what_holds_of_every_schedule():
    for layer, lines in shapes(50):
        for degree, backward in product(DEGREES, (False, True)):
            tasks = play(layer, lines, degree, backward)
            for resource in (BETWEEN, WITHIN, COMPUTE):
                mine = sorted((task.begin, task.end) for task in tasks if task.resource == resource)
                assert len(mine) == degree * (1 if resource == COMPUTE else 2)
                assert all(start >= end - 1e-12 for (_, end), (start, _) in pairwise(mine))
            steps = [lines.exchange(1 / degree), lines.gather(1 / degree), lines.experts(1 / degree) * (1 + backward)]
            chain = 2 * steps[0] + 2 * steps[1] + steps[2]
            least = max(2 * degree * steps[0], 2 * degree * steps[1], degree * steps[2], chain)
            made = layer_time(layer, lines, degree, backward)
            assert least - 1e-12 <= made <= degree * chain + 1e-12
            if degree == 1:
                assert made == pytest.approx(chain)


def test_closed_forms_where_one_resource_decides():
    layer = Layer(exchange=1.0, gather=1.0, experts=1.0)
    slow, quick = Line(start=1e-4, each=0.1), Line(start=1e-5, each=1e-4)
    for degree in (2, 4, 8):
        by_links = Lines(exchange=slow, gather=quick, experts=quick)
        assert layer_time(layer, by_links, degree) == pytest.approx(2 * (degree * 1e-4 + 0.1))
        by_experts = Lines(exchange=quick, gather=quick, experts=slow)
        ends = 4 * (1e-5 + 1e-4 / degree)
        assert layer_time(layer, by_experts, degree) == pytest.approx(degree * 1e-4 + 0.1 + ends)


def best_order(layer, lines, degree=2):
    """The least time over all orders in which each resource may take its steps."""
    steps = [(BETWEEN, lines.exchange), (WITHIN, lines.gather), (COMPUTE, lines.experts)]
    steps = [*steps, steps[1], steps[0]]
    tasks = [(chunk, at) for chunk in range(degree) for at in range(5)]
    own = [[task for task in tasks if steps[task[1]][0] == resource] for resource in range(3)]
    best = float("inf")
    for orders in product(*(set(permutations(each)) for each in own)):
        if any(
            order.index((c, a)) > order.index((c, 4 - a)) for a, order in enumerate(orders[:2]) for c in range(degree)
        ):
            continue
        end, left, free = {}, [list(order) for order in orders], [0.0] * 3
        while any(left):
            moved = False
            for resource, queue in enumerate(left):
                if queue and (queue[0][1] == 0 or (queue[0][0], queue[0][1] - 1) in end):
                    chunk, at = queue.pop(0)
                    begin = max(free[resource], end.get((chunk, at - 1), 0.0))
                    end[chunk, at] = free[resource] = begin + steps[at][1](1 / degree)
                    moved = True
            if not moved:
                break
        else:
            best = min(best, max(end.values()))
    return best


def test_no_order_of_the_steps_is_much_better():
    """All orders of two chunks are tried: none is more than 2 % better on average."""
    ratios = [layer_time(layer, lines, 2) / best_order(layer, lines) for layer, lines in shapes(20, seed=1)]
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) <= 1.02


def test_chosen_degrees_beat_fixed_ones():
    found = list(shapes(200, seed=2))
    chosen = [layer_time(layer, lines, degree_of(layer, lines)) for layer, lines in found]
    for degree in DEGREES:
        fixed = [layer_time(layer, lines, degree) for layer, lines in found]
        assert all(a <= b for a, b in zip(chosen, fixed, strict=True))
        assert np.mean(chosen) < 0.995 * np.mean(fixed)
    assert {degree_of(layer, lines) for layer, lines in found} == set(DEGREES)


def test_gradients_go_into_the_gaps():
    gained = []
    for lines in [lines for _, lines in shapes(30, seed=3)]:
        layers = [layer for layer, _ in shapes(6, seed=4)]
        made = plan(layers, lines)
        assert sum(made.slices) + made.last == pytest.approx(sum(layer.gradients for layer in layers))
        assert made.slices[-1] == 0.0, "before the last layer's backward pass there are no gradients"
        assert made.seconds <= made.at_the_end + 1e-12
        gained.append(made.seconds / made.at_the_end)
        assert made.to_json()["buckets"] == [*made.slices, made.last]
    assert np.mean(gained) <= 0.98


def test_lines_are_fitted_and_profiles_read():
    line = Line.through([1.0, 2.0, 8.0], [3.0, 5.0, 17.0])
    assert (line.start, line.each) == (pytest.approx(1.0), pytest.approx(2.0))
    assert Line.through([1.0, 4.0], [1.0, 5.0]).start == 0.0
    assert Line.through([1.0, 4.0], [5.0, 1.0]).each == 0.0
    profile = {
        "lines": {"exchange": {"start": 1e-4, "each": 0.1}, "experts": {"start": 0.0, "each": 0.1}},
        "layers": [{"exchange": 1.0, "experts": 2.0, "gradients": 1.0}],
    }
    made = find("fsmoe")()(*read_profile(profile))
    assert made.forward[0] in DEGREES
    with pytest.raises(RosterError, match="layers"):
        read_profile({"lines": profile["lines"]})
    with pytest.raises(RosterError, match="exchange"):
        read_profile({**profile, "layers": [{"experts": 1.0}]})
    with pytest.raises(RosterError, match="at least two volumes"):
        Line.through([1.0], [1.0])
    with pytest.raises(RosterError, match="no layer"):
        plan([], read_profile(profile)[1])
