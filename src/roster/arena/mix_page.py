"""The result of `roster arena mix` as one page: accuracy against cost and data, pairs, experts, who is taken for whom.

Nothing is measured here. The table, its intervals and the experts' matrix are those of `report.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from roster.arena.report import Figure, heat_table, percent, render_report, short_count, times
from roster.arena.standings import ALL, EQUAL
from roster.arena.ways import DATA
from roster.files import write_whole

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 460, 320, 44, 14, 272
_APART = 19
"""Circles nearer than this would hide one another."""
Method = Mapping[str, Any]


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def _bytes(count: int) -> str:
    return f"{short_count(count)}B"


FIGURES = (
    Figure("Own expert", "of prompts", "to_its_own", percent),
    Figure("As the oracle", "same answers", "answers_as_oracle", percent),
    Figure("Time/token", "base = 1", "time", times),
    Figure("Memory", "beside the base", "memory", _bytes),
    Figure("Trained", "numbers", "trained", short_count),
    Figure("To prepare", "one core", "prepare_s", _seconds),
    Figure("Over draws", "deviation", "spread_over_seeds", lambda share: f"{100 * share:.1f}"),
)


def write_page(result: Mapping[str, Any], path: Path) -> Path:
    """Writes the page.

    Args:
        result: of `mix_result.compare_all`.
        path: the file, replaced as a whole.
    """
    return write_whole(path, render_page(result).encode("utf-8", "backslashreplace"))


def render_page(result: Mapping[str, Any]) -> str:
    """The page as text."""
    empty: dict[str, Any] = {"rows": [], "columns": [], "values": []}
    shown = {
        **result,
        "seed": ", ".join(str(seed) for seed in result["seeds"]),
        "examples_per_skill": result["prompts"],
        "methods": [{**each, "trains": "", "note": _note(each)} | _AS_REPORTED for each in result["methods"]],
        "groups": [*result["groups"], *([ALL] if len(result["groups"]) > 1 else [])],
        "skills": {},
        "matrix": result["matrix"] or empty,
        "per_skill": result["per_task"],
        "heatmaps": [],
    }
    methods: list[Method] = result["methods"]
    number = {each["name"]: at for at, each in enumerate(methods, 1)}
    plots = [_by_data(methods, number), _by_cost(methods, number, "prepare_s"), _by_cost(methods, number, "memory")]
    if any(each["time"] is not None and each["name"] != "base" for each in methods):
        plots.insert(1, _by_cost(methods, number, "time"))
    return render_report(
        shown,
        "arena",
        FIGURES,
        plots=plots,
        key=[{"number": number[each["name"]], "kind": each["kind"], "label": each["label"]} for each in methods],
        pairs=_pairs(result),
        equal=f"{100 * EQUAL:.0f}",
        confusions=_confusions(result, shown),
        sizes=_sizes(result),
    )


_AS_REPORTED = {"agreement": None, "extra_parameters": None, "ms_per_token_ratio": None}


def _note(method: Method) -> str:
    return f"Needs {method['needs']}." if method["needs"] else ""


def _all(method: Method) -> Mapping[str, float]:
    found: Mapping[str, float] = method["accuracy"][ALL]
    return found


_COSTS: dict[str, tuple[str, Callable[[float], str], float]] = {
    "time": ("time per token, base = 1", times, 0.0),
    "prepare_s": ("seconds of one core until it can answer", _seconds, 0.1),
    "memory": ("memory beside the base", lambda value: _bytes(round(value)), 1e5),
}
"""Of each cost: what it is, how it is written, and the least that a logarithmic axis shows; 0 for a plain axis."""


def _by_cost(methods: Sequence[Method], number: Mapping[str, int], key: str) -> dict[str, Any]:
    """Accuracy over one cost."""
    label, text, least = _COSTS[key]
    known = [each for each in methods if each[key] is not None]
    scale: Callable[[float], float] = (lambda value: math.log10(max(value, least))) if least else (lambda value: value)
    values = [scale(each[key]) for each in known]
    low, high = min(values), max(values) + 1e-9
    margin = 0.08 * max(high - low, 0.1)
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return LEFT + 12 + (WIDTH - LEFT - 32) * (value - low) / (high - low)

    marks = _decades(low, high) if least else [low + margin + (high - low - 2 * margin) * at / 3 for at in range(4)]
    ticks = [(round(place(mark), 1), text(10**mark if least else mark)) for mark in marks]
    at = {each["name"]: place(scale(each[key])) for each in known}
    best = _front(known, [each[key] for each in known])
    return _plot(known, number, at, best, ticks, f"Right answers against {label}", label)


def _by_data(methods: Sequence[Method], number: Mapping[str, int]) -> dict[str, Any]:
    """Accuracy over the kind of data that a way needs; those told the task stand apart."""
    step = (WIDTH - LEFT - 8) / len(DATA)
    middle = {kind: LEFT + step * (at + 0.5) for at, kind in enumerate(DATA)}
    at = {each["name"]: middle[each["data"]] for each in methods}
    best = _front(methods, [DATA.index(each["data"]) for each in methods])
    label = "data needed beside the folder"
    ticks = [(round(x, 1), str(kind)) for kind, x in middle.items()]
    return _plot(methods, number, at, best, ticks, f"Right answers against {label}", label)


def _decades(low: float, high: float) -> list[float]:
    return [float(power) for power in range(math.ceil(low), math.floor(high) + 1)] or [low, high]


def _front(methods: Sequence[Method], costs: Sequence[float]) -> set[str]:
    """Ways that are not told the task, to which nothing as cheap or cheaper is superior."""
    free = [(each, cost) for each, cost in zip(methods, costs, strict=True) if each["kind"] != "bound"]
    return {
        each["name"]
        for each, cost in free
        if not any(
            (theirs <= cost and _all(other)["mean"] > _all(each)["mean"])
            or (theirs < cost and _all(other)["mean"] == _all(each)["mean"])
            for other, theirs in free
        )
    }


def _plot(
    methods: Sequence[Method],
    number: Mapping[str, int],
    at: Mapping[str, float],
    best: set[str],
    x_ticks: Sequence[tuple[float, str]],
    caption: str,
    label: str,
) -> dict[str, Any]:
    def height(share: float) -> float:
        return round(BOTTOM - 8 - (BOTTOM - TOP - 8) * share, 1)

    placed: list[tuple[float, float]] = []
    points = []
    for each in sorted(methods, key=lambda each: at[each["name"]]):
        share = _all(each)
        x, y = at[each["name"]], height(share["mean"])
        x = next((x + moved for moved in _moves() if _is_free(x + moved, y, placed)), x)
        placed.append((x, y))
        interval = f"{100 * share['low']:.0f} to {100 * share['high']:.0f}"
        points.append(
            {
                "name": each["name"],
                "number": number[each["name"]],
                "kind": each["kind"],
                "top": each["name"] in best,
                "title": f"{each['label']}: {100 * share['mean']:.1f} % right ({interval})",
                "x": round(x, 1),
                "y": y,
                "y_low": height(share["low"]),
                "y_high": height(share["high"]),
            }
        )
    y_ticks = [(height(share / 100), f"{share} %") for share in (0, 25, 50, 75, 100)]
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "bottom": BOTTOM}
    return frame | {"caption": caption, "x_label": label, "x_ticks": x_ticks, "y_ticks": y_ticks, "points": points}


def _moves() -> list[float]:
    """How far to the right or left a circle may step aside, the least first."""
    return [sign * _APART * step / 2 for step in range(8) for sign in (1, -1)]


def _is_free(x: float, y: float, placed: Sequence[tuple[float, float]]) -> bool:
    inside = LEFT + 8 <= x <= WIDTH - 14
    return inside and all(math.hypot(x - px, y - py) >= _APART for px, py in placed)


def _pairs(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every way against every other, the best first."""
    opposite = {"better": "worse", "worse": "better"}
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for pair in result["pairs"]:
        if pair["group"] != ALL:
            continue
        bounds = "" if pair["low"] is None else f"{100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}"
        back = "" if pair["low"] is None else f"{-100 * pair['high']:+.1f} to {-100 * pair['low']:+.1f}"
        one, other = pair["of"], pair["over"]
        cells[one, other] = {"text": _points(pair["mean"]), "word": pair["word"], "title": bounds}
        word = opposite.get(pair["word"], pair["word"])
        cells[other, one] = {"text": _points(-pair["mean"]), "word": word, "title": back}
    ranked = sorted(result["methods"], key=lambda each: -_all(each)["mean"])
    return {
        "columns": [each["label"] for each in ranked],
        "rows": [(one["label"], [cells.get((one["name"], other["name"])) for other in ranked]) for one in ranked],
    }


def _points(share: float) -> str:
    """+12, -3, 0."""
    points = round(100 * share)
    return f"{points:+d}" if points else "0"


def _confusions(result: Mapping[str, Any], shown: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tables of the recipes, the surest first."""
    asked = [each for each in result["methods"] if each["name"] in result["confusion"] and each["kind"] == "recipe"]
    return [
        {
            "label": each["label"],
            "share": percent(each["to_its_own"]),
            "table": heat_table(result["confusion"][each["name"]], shown, "confusion"),
        }
        for each in sorted(asked, key=lambda each: -each["to_its_own"])
    ]


def _sizes(result: Mapping[str, Any]) -> dict[str, Any] | None:
    if not result["sizes"]:
        return None
    folders = {str(result["experts"]): result["methods"]}
    folders |= {size: each["methods"] for size, each in result["sizes"].items()}
    columns = sorted(folders, key=int)
    share = {size: {each["name"]: _all(each)["mean"] for each in methods} for size, methods in folders.items()}
    rows = [
        (
            each["label"],
            [f"{100 * share[size][each['name']]:.0f}" if each["name"] in share[size] else "–" for size in columns],
        )
        for each in result["methods"]
    ]
    return {"columns": columns, "rows": rows}
