"""CompeteSMoE's own claim: a router taught by contests foresees the winners, and gives richer representations and a
lower loss than the same mixture without contests. Small language models, 8 experts of which 2 serve.

This is the second setting that was tried. In the first the router's scores were drawn to the strengths themselves, and
at the one seed that was run the loss was 5.45 against 4.73 and 0.32 of the winners were foreseen; now the softmax of
the scores is drawn to the winners' weights, as in the source's code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from evidence.checks.small_lm import answers, block_inputs, blocks, build, chosen, effective_rank, held_out, learn


def check(seed: int) -> dict[str, float]:
    """Validation loss in nats per token, effective rank of the last hidden states, and share of the experts chosen
    that would have won a contest (chance: 0.25)."""
    figures: dict[str, float] = {}
    for name, slug in {"CompeteSMoE": "competesmoe", "softmax router": "gshard-top2"}.items():
        run = learn(build(slug, seed), seed)
        figures[f"{name}, loss"] = run.validation_loss["all"]
        figures[f"{name}, rank"] = effective_rank(run.model, held_out())
        figures[f"{name}, winners foreseen"] = _agreement(run.model)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed at least 0.5 of the winners are foreseen; on average the loss is lower and the rank higher."""
    mean = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    foreseen = all(each["CompeteSMoE, winners foreseen"] >= 0.5 for each in figures)
    better = mean["CompeteSMoE, loss"] < mean["softmax router, loss"]
    return bool(foreseen and better and mean["CompeteSMoE, rank"] > mean["softmax router, rank"])


@torch.no_grad()
def _agreement(model: Any) -> float:
    ids_BS, shares = held_out(), []
    for block, x_TD in zip(blocks(model), block_inputs(model, ids_BS), strict=True):
        served_TE = chosen(block, x_TD, ids_BS)
        strength_TE = torch.linalg.vector_norm(answers(block, x_TD), dim=2).T
        winners_TE = torch.zeros_like(served_TE).scatter(1, strength_TE.topk(2, dim=1).indices, True)
        shares.append(float((served_TE & winners_TE).sum() / winners_TE.sum()))
    return float(np.mean(shares))
