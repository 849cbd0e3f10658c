"""The methods by name, and a run of one: calibrate, decide, plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from roster.compress.dropping import ExpertUse, Reap
from roster.compress.layers import calibrate
from roster.compress.merging import McSmoe, Uncurl
from roster.compress.method import Method
from roster.compress.mixture import Mixture, open_mixture
from roster.compress.pruner import MoePruner
from roster.compress.ream import Ream
from roster.compress.seen import Seen
from roster.errors import RosterError, nearest
from roster.options import check_options
from roster.weights import MAX_SHARD, Plan, run
from roster.weights.texts import LENGTH, ROWS, Texts, digest, read_texts

METHODS: dict[str, Callable[..., Method]] = {
    each.slug: each for each in (Reap, ExpertUse, Ream, McSmoe, Uncurl, MoePruner)
}
# MoNE (Zhang et al. 2025, arXiv 2507.00390): experts become constant vectors, which take part in routing. Where experts
# have biases (GPT-OSS) all lie in one tensor, in which a constant takes as many bytes as an expert.
REFUSED = {
    "mone": "no container that stock loaders read has a smaller place for constant experts; nearest: reap (drops the "
    "same kind of experts), ream (merges them into others)"
}


def find_method(name: str, others: Sequence[str] = ()) -> Callable[..., Method]:
    """A method by name; RosterError with the nearest names, `others` among them, or with why there is none."""
    if name in REFUSED:
        raise RosterError(f"{name}: {REFUSED[name]}")
    if name not in METHODS:
        raise RosterError(f"unknown method {name!r}: {nearest(name, (*METHODS, *others))}")
    return METHODS[name]


def make_method(name: str, mixture: Mixture, to: str, options: Mapping[str, Any] | None = None) -> Method:
    """A method with its options, refused before any work where a stock loader could not read what it makes.

    Raises:
        RosterError: an unknown method or option, a value of the wrong kind, a size that cannot be, or a form that no
            stock loader holds, with the nearest that one does.
    """
    made = find_method(name)
    check_options(name, made, options or {}, ("mixture", "to"))
    return made(mixture, to, **dict(options or {}))


def decide(
    method: Method,
    mixture: Mixture,
    texts: Texts,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, Any]:
    """Calibrates, and lets the method decide; by layer.

    Args:
        method: see `make_method`.
        mixture: on disk.
        texts: to calibrate on.
        device: where layers run, one at a time.
        progress: told of layers done, and of how many there are.
    """
    decisions: dict[int, Any] = {}
    waiting: dict[int, Seen] = {}

    def watch(layer: int, seen: Seen, block: nn.Module) -> bool:
        if not method.in_turn:
            waiting[layer] = seen
            return False
        decisions[layer] = method.decide({layer: seen})[layer]
        method.change(block, decisions[layer])
        return True

    calibrate(mixture, texts, watch, device=device, progress=progress)
    return decisions if method.in_turn else dict(method.decide(waiting))


def plan_compress(
    method: Method, decisions: Mapping[int, Any], to: str, texts: Texts, max_shard: int = MAX_SHARD
) -> Plan:
    """The plan of what the method decided, with a report of it."""
    report = {"method": method.slug, "to": to, "calibration": {"tokens": texts.tokens, "digest": digest(texts)}}
    return method.plan(decisions, report, max_shard)


def compress(
    folder: str | Path,
    out: str | Path,
    method: str,
    to: str,
    *,
    data: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    rows: int = ROWS,
    length: int = LENGTH,
    device: str = "cpu",
    overwrite: bool = False,
) -> dict[int, Any]:
    """All of it: a mixture's folder (or hub name) in, a smaller one's folder out.

    Args:
        folder: what is made smaller.
        out: where to.
        method: its name.
        to: "4" (experts a layer), "50%" or "20GB".
        data: JSONL to calibrate on; None for Python's documentation.
        options: the method's.
        rows: of the data, at most.
        length: tokens of a row, at most.
        device: where layers run.
        overwrite: whether a folder that is there is replaced.

    Returns:
        What became of each layer.
    """
    mixture = open_mixture(folder)
    made = make_method(method, mixture, to, options)
    texts = read_texts(data, mixture.source.folder, rows, length)
    decisions = decide(made, mixture, texts, device)
    run(plan_compress(made, decisions, to, texts), out, overwrite=overwrite)
    return decisions
