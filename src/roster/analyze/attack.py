"""Attack: can someone who shares a batch with a victim change what the victim gets? (Hayes, Shumailov and Yona, 2024,
"Buffer Overflow in Mixture of Experts", arXiv:2402.05526.)

Where experts have a limited capacity, or pick tokens themselves, an attacker's rows can take the victim's places. The
attacker here sees the victim's row and what comes out for it, writes all other rows of the batch, and stands before the
victim in it. All batches have the same shape and no padding, so that a model whose rows are independent of each other
answers the victim alike in every one of them, up to round-off.

Shape legend: B batch rows, S tokens per row, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roster.errors import RosterError


@dataclass(frozen=True)
class Attacked:
    """What came of an attack.

    Attributes:
        victims: rows that were attacked.
        changed: those of them whose output some batch changed by more than the tolerance.
        flipped: those of them of which at least one token was predicted otherwise in such a batch.
        largest: the largest change of a logit, relative to the victim's largest logit.
        attempts: batches tried per victim, at most.
    """

    victims: int
    changed: int
    flipped: int
    largest: float
    attempts: int

    @property
    def flip_rate(self) -> float:
        """Share of the victims with a token that was predicted otherwise."""
        return self.flipped / self.victims

    @property
    def vulnerable(self) -> bool:
        """Whether any victim's output was changed."""
        return self.changed > 0


def attack(
    model: Any,
    victims_NS: Tensor | None = None,
    *,
    victims: int = 8,
    length: int = 16,
    mates: int = 7,
    attempts: int = 12,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Attacked:
    """Attacks rows through their batch-mates.

    Args:
        model: a causal language model of transformers, routed or not; it is evaluated in the mode and type it is in.
        victims_NS: token ids of the rows to attack; by default drawn at random.
        victims, length: how many rows are drawn, and of how many tokens.
        mates: rows that the attacker has in every batch.
        attempts: batches per victim: copies of it, its single tokens repeated, random rows, and then changes to the
            worst of these as long as they make it worse.
        tolerance: the smallest change of a logit that counts, relative to the victim's largest logit. Round-off in
            float32 stays far below 0.001; models in fewer bits need more.
        seed: of everything that is drawn.

    Raises:
        RosterError: a number that is too small, or a model in training mode.
    """
    for name, value in {"victims": victims, "length": length, "mates": mates, "attempts": attempts}.items():
        if value < 1:
            raise RosterError(f"an attack needs {name} of at least 1, not {value}")
    if not tolerance > 0:
        raise RosterError(f"an attack needs a tolerance above 0, not {tolerance}")
    if model.training:
        raise RosterError("an attack is on a model in evaluation mode: call model.eval() first")
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.config.get_text_config().vocab_size
    if victims_NS is None:
        victims_NS = torch.randint(vocabulary, (victims, length), generator=generator)
    found = [_attack_one(model, victim_S, mates, attempts, tolerance, generator) for victim_S in victims_NS]
    return Attacked(
        victims=len(found),
        changed=sum(change > tolerance for change, _ in found),
        flipped=sum(flipped for _, flipped in found),
        largest=max(change for change, _ in found),
        attempts=attempts,
    )


def _attack_one(
    model: Any, victim_S: Tensor, mates: int, attempts: int, tolerance: float, generator: torch.Generator
) -> tuple[float, bool]:
    """(largest change, whether a token flipped in a batch with a change that counts)."""
    vocabulary = model.config.get_text_config().vocab_size

    def random_rows() -> Tensor:
        return torch.randint(vocabulary, (mates, len(victim_S)), generator=generator)

    calm_SV = _answer(model, random_rows(), victim_S)
    scale = float(calm_SV.abs().max())
    worst, worst_mates, flipped = -1.0, random_rows(), False
    openings = _openings(victim_S, mates)
    for attempt in range(attempts):
        # The first half of the attempts looks for a start, the second goes on from it.
        rows = next(openings, None) if attempt < (attempts + 1) // 2 else _varied(worst_mates, victim_S, generator)
        rows = random_rows() if rows is None else rows
        answer_SV = _answer(model, rows, victim_S)
        change = float((answer_SV - calm_SV).abs().max()) / scale
        if change > tolerance:
            flipped = flipped or bool((answer_SV.argmax(1) != calm_SV.argmax(1)).any())
        if change > worst:
            worst, worst_mates = change, rows
    return worst, flipped


def _openings(victim_S: Tensor, mates: int) -> Iterator[Tensor]:
    """Rows that want what the victim wants: all of its experts, or those of one of its tokens."""
    yield victim_S.expand(mates, -1)
    for token in victim_S[torch.linspace(len(victim_S) - 1, 0, min(4, len(victim_S))).long()]:
        yield token.expand(mates, len(victim_S))


def _varied(rows_BS: Tensor, victim_S: Tensor, generator: torch.Generator) -> Tensor:
    """An eighth of the tokens replaced by tokens of the victim."""
    drawn_BS = victim_S[torch.randint(len(victim_S), rows_BS.shape, generator=generator)]
    return torch.where(torch.rand(rows_BS.shape, generator=generator) < 0.125, drawn_BS, rows_BS)


@torch.no_grad()
def _answer(model: Any, mates_BS: Tensor, victim_S: Tensor) -> Tensor:
    """The victim's logits [S, V] when it stands last in a batch."""
    ids_BS = torch.cat([mates_BS, victim_S[None]]).to(model.device)
    known = {}
    mixing = getattr(getattr(model, "roster", None), "plan", None)
    if mixing is not None and mixing.routes_by_task:
        known["task_ids"] = torch.zeros(len(ids_BS), dtype=torch.int64, device=ids_BS.device)
    logits_BSV = model(input_ids=ids_BS, attention_mask=torch.ones_like(ids_BS), use_cache=False, **known).logits
    logits_SV: Tensor = logits_BSV[-1].float().cpu()
    return logits_SV
