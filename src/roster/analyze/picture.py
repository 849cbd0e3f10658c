"""The expert-by-token matrix as a matplotlib figure, drawn without a display and without global state.

Shape legend: S tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

_FONT = "DejaVu Sans"
_INCHES_PER_TOKEN, _INCHES_PER_EXPERT = 0.2, 0.26
_LABELS = 160
"""Token labels drawn at most: past this, every n-th."""


def matrix_figure(gates_SE: Tensor, experts: Sequence[str], labels: Sequence[str]) -> Figure:
    """Draw one row's weights.

    Args:
        gates_SE: mean weight over the sites.
        experts: E names, top to bottom.
        labels: S token texts, white space already visible.

    Returns:
        A figure on an Agg canvas, in a colour map whose brightness grows with the weight.
    """
    count = max(1, len(labels))
    width = min(60.0, max(6.0, 3.0 + _INCHES_PER_TOKEN * count))
    figure = Figure(figsize=(width, 2.2 + _INCHES_PER_EXPERT * len(experts)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # Scaled to the largest weight, not to one: a mean over many layers seldom comes near one.
    peak = (float(gates_SE.max()) if gates_SE.numel() else 0.0) or 1.0
    weights_ES = gates_SE.T.numpy() if gates_SE.numel() else gates_SE.new_zeros(len(experts), 1).numpy()
    image = axes.imshow(weights_ES, aspect="auto", cmap="cividis", vmin=0, vmax=peak, interpolation="nearest")
    step = -(-count // _LABELS)
    axes.set_xticks(range(0, len(labels), step), [_drawable(text) for text in labels[::step]], rotation=90)
    axes.set_yticks(range(len(experts)), [_drawable(name) for name in experts])
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        # A token may well be "$"; without this, a pair of them would be typeset as a formula.
        text.set_parse_math(False)
        text.set_fontfamily(_FONT)
        text.set_fontsize(8)
    axes.set_xlabel("token")
    axes.set_ylabel("expert")
    figure.colorbar(image, ax=axes, label="mean weight over sites", pad=0.01)
    return figure


@cache
def _characters() -> frozenset[int]:
    """Code points that the font has; matplotlib brings this font along, so it is the same everywhere."""
    return frozenset(font_manager.get_font(font_manager.findfont(_FONT)).get_charmap())


def _drawable(text: str) -> str:
    """At most 24 characters, those that the font lacks as U+FFFD."""
    shown = text if len(text) <= 24 else text[:23] + "…"
    return "".join(each if ord(each) in _characters() else "\ufffd" for each in shown)
