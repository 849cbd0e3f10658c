"""Two random draws of experts must agree: the training loss of THOR (Zuo et al., 2021, arXiv:2110.04260).

Shape legend: B batch rows, S tokens per row, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def two_draws(model: Any, weight: float, **inputs: Any) -> Tensor:
    """`(loss_1 + loss_2) / 2 + weight * symmetric KL of the two predictions`, from two forward calls.

    Args:
        model: a causal LM in training mode whose routes are drawn anew in every call.
        weight: of the disagreement.
        inputs: what the model takes, `labels` [B, S] among them; -100 marks positions that do not count.

    Returns:
        A scalar.
    """
    first, second = model(**inputs), model(**inputs)
    labels_BS = inputs["labels"][:, 1:]
    log_1, log_2 = (F.log_softmax(each.logits[:, :-1].float(), dim=-1) for each in (first, second))
    apart_BS = ((log_1.exp() - log_2.exp()) * (log_1 - log_2)).sum(-1) / 2
    counts_BS = (labels_BS != -100).to(apart_BS)
    disagreement = (apart_BS * counts_BS).sum() / counts_BS.sum().clamp_min(1.0)
    loss: Tensor = (first.loss + second.loss) / 2 + weight * disagreement
    return loss


def training_loss(model: Any, **inputs: Any) -> Tensor:
    """The loss of one batch as the model's layout wants it: of one forward call, or of two draws that must agree.

    Args:
        model: a causal LM with mixtures, in training mode.
        inputs: what the model takes, `labels` among them.
    """
    weight = getattr(model.roster.plan, "consistency", 0.0)
    return two_draws(model, weight, **inputs) if weight else model(**inputs).loss
