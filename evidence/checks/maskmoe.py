"""MaskMoE's own claim: rare tokens are predicted from better than by an unmasked router, frequent ones no worse than by
hash routing.

A small language model on the arena's text; a rare token id is one of the 60 % of the vocabulary that occur least in
the training text. The loss is that of predicting what follows a rare, or a frequent, token.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evidence.checks.small_lm import build, held_out, learn
from roster.arena.moe.data import VOCAB, corpus

FREQUENT = 0.4


def check(seed: int) -> dict[str, float]:
    """Nats per token after rare and after frequent tokens."""
    count_V = torch.bincount(torch.cat(list(corpus().train.values())), minlength=VOCAB)
    rare_V = torch.ones(VOCAB, dtype=torch.bool)
    rare_V[count_V.argsort(descending=True)[: round(FREQUENT * VOCAB)]] = False
    counts = count_V.tolist()
    contenders = {
        "MaskMoE": ("maskmoe", {"counts": counts, "frequent": FREQUENT}),
        "unmasked": ("switch-transformer", {}),
        "hash": ("hash-routing", {"counts": counts}),
    }
    figures = {}
    for name, (recipe, options) in contenders.items():
        model = build(recipe, seed, options)
        learn(model, seed)
        rare, frequent = _losses(model, rare_V)
        figures[f"{name}: after rare tokens"], figures[f"{name}: after frequent tokens"] = rare, frequent
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """On average and at most seeds the loss after rare tokens is below that of the unmasked router; the mean loss after
    frequent ones is at most that of hash routing.
    """
    gain = np.array([each["unmasked: after rare tokens"] - each["MaskMoE: after rare tokens"] for each in figures])
    kept = np.mean([each["hash: after frequent tokens"] - each["MaskMoE: after frequent tokens"] for each in figures])
    return bool(gain.mean() > 0 and (gain > 0).mean() > 0.5 and kept >= 0)


@torch.no_grad()
def _losses(model, rare_V: Tensor) -> tuple[float, float]:
    ids_BS = held_out()
    logits_BSV = model.eval()(input_ids=ids_BS, use_cache=False).logits[:, :-1]
    loss_T = F.cross_entropy(logits_BSV.flatten(0, 1), ids_BS[:, 1:].flatten(), reduction="none")
    rare_T = rare_V[ids_BS[:, :-1].flatten()]
    return float(loss_T[rare_T].mean()), float(loss_T[~rare_T].mean())
