"""Which experts suit some examples: each expert is put on the base and asked, one after the other, straight from disk.

`by_loss` reads the answers wanted; `by_shots` also lets the experts answer, and ranks by both: an expert that guesses
right without expecting what it says is not preferred.

Equation: loss_e = mean of -log p_e(token) over the tokens of all answers; right_e = share of answers said exactly.
Shapes: one adapter in memory at a time.
Trains: nothing; no gradients are computed.
Source: K shots, exact match together with perplexity: Yang et al., 2024, "Leveraging Open Knowledge for Advancing Task
    Expertise in Large Language Models", arXiv:2408.15915, whose code is Yaphabates/Rocket. The two are combined here by
    the sum of their ranks.
Differences: the authors go on to choose a group of experts and to train them; here it is a ranking.

Shape legend: B rows, S tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from roster.errors import RosterError
from roster.library import Adapter, check_fits, read_adapter
from roster.library.wearing import wearing
from roster.prompts import Rendering
from roster.train.data import IGNORED, Encoded, Row, collate

_BATCH = 16


@dataclass(frozen=True)
class Asked:
    """How one expert did.

    Attributes:
        name: of it; "base" for the base alone, when it was asked too.
        loss: nats per token of the answers.
        right: share of answers that it gave exactly; None where it was not asked to answer.
    """

    name: str
    loss: float
    right: float | None = None


def by_loss(
    model: Any,
    rendering: Rendering,
    paths: Mapping[str, Path | None],
    rows: Sequence[Row],
    tick: Callable[[int], None] = lambda count: None,
) -> list[Asked]:
    """Every expert with its loss, the least first.

    Args:
        model: the plain base.
        rendering: how prompts become tokens.
        paths: of the experts' folders by name; None for the base alone.
        rows: examples with answers.
        tick: called after each expert.

    Raises:
        RosterError: a row without an answer, or an expert that cannot be read or does not fit.
    """
    return sorted(_asked(model, rendering, paths, rows, False, tick), key=lambda each: each.loss)


def by_shots(
    model: Any,
    rendering: Rendering,
    paths: Mapping[str, Path | None],
    rows: Sequence[Row],
    tick: Callable[[int], None] = lambda count: None,
) -> list[Asked]:
    """Every expert with its loss and the share of its answers that are right, best sum of ranks first."""
    asked = _asked(model, rendering, paths, rows, True, tick)
    by_right = sorted({each.right or 0.0 for each in asked}, reverse=True)
    by_nats = sorted({each.loss for each in asked})
    return sorted(asked, key=lambda e: (by_right.index(e.right or 0.0) + by_nats.index(e.loss), e.loss))


def _asked(
    model: Any,
    rendering: Rendering,
    paths: Mapping[str, Path | None],
    rows: Sequence[Row],
    answers: bool,
    tick: Callable[[int], None],
) -> list[Asked]:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    data = Encoded(rows, rendering, limit)
    found = []
    for name, path in paths.items():
        adapter = None if path is None else _read(path, model)
        with wearing(model, adapter), torch.no_grad():
            right = _right(model, rendering, rows, data) if answers else None
            found.append(Asked(name, _loss(model, data, rendering.pad_token_id), right))
        tick(1)
    return found


def _read(path: Path, model: Any) -> Adapter:
    adapter = read_adapter(path)
    check_fits(adapter, model)
    return adapter


def _loss(model: Any, data: Encoded, pad: int) -> float:
    total, tokens = 0.0, 0
    for start in range(0, len(data), _BATCH):
        batch = collate(data.items[start : start + _BATCH], pad)
        labels_BS = batch.pop("labels").to(model.device)[:, 1:]
        logits_BSV = model(**{key: each.to(model.device) for key, each in batch.items()}, use_cache=False).logits
        nats_BS = F.cross_entropy(
            logits_BSV[:, :-1].float().transpose(1, 2), labels_BS, ignore_index=IGNORED, reduction="none"
        )
        total, tokens = total + float(nats_BS.sum()), tokens + int((labels_BS != IGNORED).sum())
    if not tokens:
        raise RosterError("the answers hold no tokens")
    return total / tokens


def _right(model: Any, rendering: Rendering, rows: Sequence[Row], data: Encoded) -> float:
    right = 0
    longest = max(sum(label != IGNORED for label in item["labels"]) for item in data.items)
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        inputs = {key: each.to(model.device) for key, each in rendering.inputs([row.asked for row in some]).items()}
        out_BS = model.generate(
            **inputs, do_sample=False, max_new_tokens=longest + 1, pad_token_id=rendering.pad_token_id
        )
        said = rendering.tokenizer.batch_decode(out_BS[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += sum(text.strip() == (row.answer or "").strip() for text, row in zip(said, some, strict=True))
    return right / len(rows)
