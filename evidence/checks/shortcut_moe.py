"""Shortcut-connected MoE's own claim: communication hides behind computation, at the validation loss of top-2 routing.

Loss: small language models (see `small_lm`), ScMoE against GShard top-2 at equal arithmetic and parameters.

Time: a simulation of one layer with a compute stream and a network stream, in units of the attention's time.
Attention 1, one expert or the shared one `EXPERT`, all-to-all there and back `exchange` each (a quick and a slow
network). Top-2 routing must wait: attention, exchange, two experts' work, exchange. ScMoE's exchange starts with the
layer, for what it sends was ready one block ago, and runs beside attention and the shared expert.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.small_lm import build, learn

ATTENTION, EXPERT = 1.0, 0.5
NETWORKS = {"quick network": 0.3, "slow network": 1.0}


def top2_time(exchange: float) -> float:
    """Nothing overlaps: each step needs the one before it."""
    return ATTENTION + exchange + 2 * EXPERT + exchange


def shortcut_time(exchange: float) -> float:
    """Two streams, event by event: tokens travel to the experts, which compute when both are ready, and back."""
    network = compute = 0.0
    network += exchange  # tokens of the preceding block leave at once
    arrived = network
    compute += ATTENTION
    if arrived <= compute:  # the routed experts work as soon as their tokens are there, then the shared one
        compute += EXPERT
        network = max(network, compute) + exchange
        compute += EXPERT
    else:
        compute += EXPERT
        compute = max(compute, arrived) + EXPERT
        network = max(network, compute) + exchange
    return max(network, compute)


def check(seed: int) -> dict[str, float]:
    """Validation losses in nats, times of a layer, and the share of communication that is hidden."""
    figures = {
        "ScMoE: loss": learn(build("shortcut-moe", seed), seed).validation_loss["all"],
        "top-2: loss": learn(build("gshard-top2", seed), seed).validation_loss["all"],
    }
    computing = ATTENTION + 2 * EXPERT
    for name, exchange in NETWORKS.items():
        figures[f"{name}: time of top-2"] = top2_time(exchange)
        figures[f"{name}: time of ScMoE"] = shortcut_time(exchange)
        figures[f"{name}: communication hidden"] = 1 - (shortcut_time(exchange) - computing) / (2 * exchange)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """The mean loss is at most that of top-2 plus the spread (standard deviation) of top-2 over seeds, and at least
    70 % of the communication is hidden on both networks (the source's range is 70 to 100 %).
    """
    losses = {name: np.array([each[f"{name}: loss"] for each in figures]) for name in ("ScMoE", "top-2")}
    near = losses["ScMoE"].mean() <= losses["top-2"].mean() + losses["top-2"].std(ddof=1)
    return bool(near and all(figures[0][f"{name}: communication hidden"] >= 0.7 for name in NETWORKS))
