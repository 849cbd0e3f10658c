"""Token heat maps: one row's text, coloured by the expert on duty, as HTML or PNG.

Covers the pictures of one row of a trace; what is counted over all rows is `Trace.table` and `Trace.print`.

Shape legend: S positions (real tokens only), E experts, L layers.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from roster.analyze.palette import mark_of
from roster.analyze.picture import matrix_figure
from roster.analyze.texts import visible, visible_parts
from roster.analyze.trace import Trace
from roster.errors import RosterError
from roster.files import write_whole
from roster.reporting import render

_STRIP_TOKENS = 256
"""Layers times tokens are as many table cells: past this, the strip would make the page too heavy."""
_TOP = 4
"""Experts named in a tooltip."""
_SEEN = 5e-4
"""Weights below this would be printed as 0.000."""


def heatmap_html(trace: Trace, row: int = 0, title: str = "Which expert read which token") -> str:
    """One row as an HTML fragment: its tokens, and the strongest expert of every layer.

    Every token is tinted by its strongest expert (by the mean weight over the sites), more strongly for a
    larger weight, has that expert's letter beneath and its top weights in a tooltip; a folding table says the
    same without a pointer. The fragment carries its own style, makes no request, and several may share a
    page.

    Args:
        trace: what was recorded.
        row: which row.
        title: the figure's caption, as plain text.

    Returns:
        One `<figure>` element, all text escaped.

    Raises:
        RosterError: there is no such row.
    """
    return render("heatmap", **_view(trace, row), title=title)


def heatmap_page(trace: Trace, row: int = 0, title: str = "Which expert read which token") -> str:
    """`heatmap_html` as a whole page."""
    fragment = heatmap_html(trace, row, title)
    return render("picture", title=title, fragment=fragment)


def heatmap_png(trace: Trace, path: Path | str, row: int = 0) -> Path:
    """One row as a picture: experts by tokens, the mean weight over the sites as brightness.

    Args:
        trace: what was recorded.
        path: the PNG file to write, replaced as a whole.
        row: which row.

    Returns:
        The path.

    Raises:
        RosterError: there is no such row.
    """
    gates_SE = trace.gates(None, row)[trace.mask(row)]
    figure = matrix_figure(gates_SE, trace.experts, [visible(text) for text in trace.texts(row)])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    return write_whole(path, buffer.getvalue())


def save(trace: Trace, path: Path | str, row: int = 0) -> Path:
    """Write a heat map in the format that the file's suffix names.

    Args:
        trace: what was recorded.
        path: ends in `.html` (a whole page) or `.png`.
        row: which row.

    Returns:
        The path.

    Raises:
        RosterError: another suffix, or no such row.
    """
    writers: dict[str, Callable[[], Path]] = {
        ".html": lambda: write_whole(path, heatmap_page(trace, row).encode("utf-8", "backslashreplace")),
        ".png": lambda: heatmap_png(trace, path, row),
    }
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        known = " or ".join(writers)
        raise RosterError(f"a heat map is written as {known}; {str(path)!r} ends in {suffix or 'neither'}")
    return writers[suffix]()


def _view(trace: Trace, row: int) -> dict[str, Any]:
    """What the template shows, all of it plain text and numbers."""
    keep_S = trace.mask(row)
    gates_SE = trace.gates(None, row)[keep_S]
    texts = trace.texts(row)
    layers, gates_LSE = trace.layer_gates(row)
    gates_LSE = gates_LSE[:, keep_S][:, :_STRIP_TOKENS]
    # Weights need not sum to one; where one exceeds it, tints are relative to the largest.
    full = max(1.0, float(gates_SE.max()) if gates_SE.numel() else 0.0)
    tokens = [
        {
            "parts": visible_parts(text),
            "text": visible(text),
            "ends_line": text.endswith("\n"),
            "weights": _top_weights(trace, gates_E),
            **_strongest(gates_E, full),
        }
        for text, gates_E in zip(texts, gates_SE, strict=True)
    ]
    full = max(1.0, float(gates_LSE.max()) if gates_LSE.numel() else 0.0)
    strip = [
        (layer, [_strongest(gates_E, full) for gates_E in gates_SE_])
        for layer, gates_SE_ in zip(layers, gates_LSE, strict=True)
    ]
    used = {cell["index"] for cell in tokens} | {cell["index"] for _, cells in strip for cell in cells}
    return {
        "tokens": tokens,
        "strip": strip,
        "strip_tokens": gates_LSE.shape[1],
        "legend": _legend(trace, gates_SE, used - {None}),
        "absent": len(trace.experts) - len(used - {None}),
        "unrouted": None in used,
    }


def _strongest(gates_E: Tensor, full: float) -> dict[str, Any]:
    """The mark of a token's strongest expert, and its weight as a tint from 0 to 1."""
    weight, index = (float(gates_E.max()), int(gates_E.argmax())) if gates_E.numel() else (0.0, 0)
    if weight <= 0:
        return {"index": None, "letter": "–", "tint": 0.0, "weight": 0.0}
    return {"index": index, "letter": mark_of(index).letter, "tint": round(weight / full, 2), "weight": weight}


def _top_weights(trace: Trace, gates_E: Tensor) -> list[tuple[str, str, str]]:
    """(letter, expert, weight) of the experts that matter most for one token, strongest first."""
    order = gates_E.argsort(descending=True, stable=True)[:_TOP].tolist()
    chosen = [index for index in order if float(gates_E[index]) >= _SEEN]
    return [(mark_of(index).letter, trace.experts[index], f"{float(gates_E[index]):.3f}") for index in chosen]


def _legend(trace: Trace, gates_SE: Tensor, used: set[int]) -> list[dict[str, Any]]:
    """The experts that the picture shows, with their share of the row's weight, largest first."""
    weight_E = gates_SE.double().sum(0)
    share_E = 100 * weight_E / weight_E.sum().clamp(min=1e-12)
    order = sorted(used, key=lambda index: (-float(share_E[index]), index))
    return [
        {"index": index, "name": trace.experts[index], "share": f"{float(share_E[index]):.0f}", "mark": mark_of(index)}
        for index in order
    ]
