"""FSMoE's claims on a model of a machine: what is planned from noisy measurements is judged by the true lines.

No machine with links of its own was at hand: times are those of `roster.place.overlap.play`. A plan is made from lines
fitted to timings that are off by a fifth, so that it can be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from evidence.protocol.check import Check, Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.place.overlap import BETWEEN, DEGREES, Layer, Line, Lines, layer_time, play
from roster.recipes import find

LAYERS, MACHINES, NOISE = 12, 20, 0.2
Degrees = tuple[Sequence[int], Sequence[int]]
"""Chunks of each layer, forward and backward."""
Choose = Callable[[Sequence[Layer], Lines, Lines, np.random.Generator], Degrees]
"""(layers, measured lines, true lines, luck) -> degrees."""


def _machine(dice: np.random.Generator) -> tuple[list[Layer], Lines]:
    """Layers of very different volumes, and lines of which each may be the narrow one; volumes in Mi, times in s."""

    def line(low: float, high: float) -> Line:
        return Line(start=10 ** dice.uniform(-4.5, -3.0), each=10 ** dice.uniform(low, high))

    def layer() -> Layer:
        sent = 10 ** dice.uniform(0, 2)
        computed, gradients = sent * 10 ** dice.uniform(-0.7, 0.7), 10 ** dice.uniform(0, 2)
        return Layer(exchange=sent, gather=sent, experts=computed, gradients=gradients)

    lines = Lines(exchange=line(-4, -3), gather=line(-4.5, -3.5), experts=line(-4, -3), reduce=line(-4, -3))
    return [layer() for _ in range(LAYERS)], lines


def _measured(lines: Lines, dice: np.random.Generator) -> Lines:
    """Lines through timings of six volumes, each off by a fifth."""
    volumes = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0]

    def fit(true: Line) -> Line:
        return Line.through(volumes, [true(each) * float(np.exp(NOISE * dice.standard_normal())) for each in volumes])

    fitted = (fit(each) for each in (lines.exchange, lines.gather, lines.experts, lines.reduce))
    return Lines(**dict(zip(("exchange", "gather", "experts", "reduce"), fitted, strict=True)))


def _compute(layers: Sequence[Layer], lines: Lines, degrees: Degrees) -> float:
    """Seconds of a step's layers, without gradients."""
    return sum(
        layer_time(layer, lines, degree, backward)
        for backward, chosen in enumerate(degrees)
        for layer, degree in zip(layers, chosen, strict=True)
    )


def _planned(layers: Sequence[Layer], measured: Lines, _true: Lines, _dice: np.random.Generator) -> Degrees:
    found = find("fsmoe").compose()(layers, measured)
    return found.forward, found.backward


def _one_for_all(layers: Sequence[Layer], measured: Lines, _true: Lines, _dice: np.random.Generator) -> Degrees:
    """The best single degree by the measured lines."""
    each = {degree: ([degree] * len(layers),) * 2 for degree in DEGREES}
    return min(each.values(), key=lambda degrees: _compute(layers, measured, degrees))


def _dealt_out(layers: Sequence[Layer], measured: Lines, true: Lines, dice: np.random.Generator) -> Degrees:
    """The planned degrees, at other layers."""
    order = dice.permutation(len(layers))
    forward, backward = _planned(layers, measured, true, dice)
    return [forward[at] for at in order], [backward[at] for at in order]


def _known(layers: Sequence[Layer], _measured: Lines, true: Lines, dice: np.random.Generator) -> Degrees:
    return _planned(layers, true, true, dice)


def _uncut(layers: Sequence[Layer], _measured: Lines, _true: Lines, _dice: np.random.Generator) -> Degrees:
    return ([1] * len(layers),) * 2


def _over_machines(seconds: Callable[[Sequence[Layer], Lines, Lines, np.random.Generator], float]) -> Contender:
    """Mean, over machines, of a step's seconds over those of the same step uncut, gradients at the end."""

    def run(draw: Draw) -> float:
        found = []
        for number in range(2 if draw.short else MACHINES):
            layers, true = _machine(np.random.default_rng([draw.ground, number]))
            dice = np.random.default_rng([draw.luck, number, 1])
            whole = true.reduce(sum(layer.gradients for layer in layers))
            plain = _compute(layers, true, _uncut(layers, true, true, dice)) + whole
            found.append(seconds(layers, _measured(true, dice), true, dice) / plain)
        return float(np.mean(found))

    return run


def _with(choose: Choose) -> Contender:
    """Degrees by a rule, gradients at the end."""

    def seconds(layers: Sequence[Layer], measured: Lines, true: Lines, dice: np.random.Generator) -> float:
        degrees = choose(layers, measured, true, dice)
        return _compute(layers, true, degrees) + true.reduce(sum(layer.gradients for layer in layers))

    return _over_machines(seconds)


def _sent(
    slicing: Callable[[Sequence[float], np.random.Generator], Sequence[float]] | None, free: bool = False
) -> Contender:
    """Planned degrees; gradients in slices.

    Args:
        slicing: from the planned slices to those that are tried; None sends all at the end.
        free: gradients take no time.
    """

    def seconds(layers: Sequence[Layer], measured: Lines, true: Lines, dice: np.random.Generator) -> float:
        plan = find("fsmoe").compose()(layers, measured)
        total = _compute(layers, true, (plan.forward, plan.backward))
        whole = sum(layer.gradients for layer in layers)
        if free:
            return total
        if slicing is None:
            return total + true.reduce(whole)
        slices, there = slicing(plan.slices, dice), 0.0
        late = whole
        for layer, degree, wanted in reversed(list(zip(layers, plan.backward, slices, strict=True))):
            sent = min(wanted, there)
            total += _overrun(layer, true, degree, sent)
            late, there = late - sent, there - sent + layer.gradients
        return total + true.reduce(late)

    return _over_machines(seconds)


def _overrun(layer: Layer, lines: Lines, degree: int, volume: float) -> float:
    """How much longer a layer's backward pass takes because a slice does not fit into its true gaps."""
    tasks = sorted((each.begin, each.end) for each in play(layer, lines, degree, True) if each.resource == BETWEEN)
    left = volume
    for (_, end), (begin, _) in pairwise(tasks):
        room = begin - end - lines.reduce.start
        if room > 0 and left > 0:
            left -= min(left, room / lines.reduce.each)
    return lines.reduce(left)


def _shuffled(slices: Sequence[float], dice: np.random.Generator) -> Sequence[float]:
    return [slices[at] for at in dice.permutation(len(slices))]


def _claim(part: str, claim: str, contenders: dict[str, tuple[str, Contender]], pairs: Pairs, effect: float) -> Check:
    return make_check(
        slug="fsmoe",
        part=part,
        version=1,
        claim=claim,
        ground=(
            "a model of overlap, no real machine: 20 random machines a seed, 12 layers each; plans from lines through "
            "six timings that are off by a fifth, judged by the true lines"
        ),
        budget="the same layers, machine and measurements",
        contenders=contenders,
        pairs=pairs,
        statistic=Statistic("seconds of a step over those of the same step uncut", "lower", effect),
    )


CHECKS = (
    _claim(
        "degrees",
        "With chunks chosen layer by layer a step takes less time than with one number of chunks for all layers.",
        {
            "by layer": ("planned degrees, gradients at the end", _with(_planned)),
            "one for all": ("the best single degree by the same measurements", _with(_one_for_all)),
            "dealt out": ("the planned degrees at other layers: the layer is not looked at", _with(_dealt_out)),
            "known": ("control: degrees planned from the true lines", _with(_known)),
            "uncut": ("control: one chunk everywhere", _with(_uncut)),
        },
        Pairs("by layer", "one for all", "dealt out", "known", "uncut"),
        0.01,
    ),
    _claim(
        "gradients",
        "With gradients sent in the gaps of a backward pass a step takes less time than with all of them at its end.",
        {
            "in gaps": ("planned slices, as large as the measured gaps", _sent(lambda slices, _dice: slices)),
            "at the end": ("the same degrees, all gradients at the end", _sent(None)),
            "shuffled": ("the planned slices at other layers: gaps are not looked at", _sent(_shuffled)),
            "free": ("control: gradients take no time", _sent(None, free=True)),
        },
        Pairs("in gaps", "at the end", "shuffled", "free", "at the end"),
        0.01,
    ),
)
