"""Rows that step together: one forward pass a step for all of them, whatever adapters each of them has.

A batch is of one of two sorts. In one every row has its weights of the experts given (an adapter's name, the base, or a
router's decision on the whole prompt); in the other the mixture's router decides in every pass. New rows read their
prompts in a pass of their own and are then joined to those at work.

Shape legend: B rows, L columns of the cache, S tokens of one pass, E experts, K on duty, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from roster.context import Context
from roster.prompts import padded
from roster.routed.deciding import decided
from roster.serve.duty import OnDuty
from roster.serve.jobs import Ended, Job, Routed, Token
from roster.serve.joining import joined, kept
from roster.serve.sampling import Draw, next_tokens


@dataclass(eq=False)
class Row:
    """A job at work.

    Attributes:
        job: the job.
        draw: its choices.
        gates_E: its weights, given or decided; None while the router decides in every pass.
        token: what the next pass reads of it.
        done: whether it has ended.
    """

    job: Job
    draw: Draw
    gates_E: Tensor | None
    token: int = -1
    done: bool = False

    @property
    def over(self) -> bool:
        """Whether it has ended, or nobody waits for it."""
        return self.done or self.job.cancelled

    def take(self, token: int) -> None:
        """One more token; says so, and when it was the last."""
        job = self.job
        self.token = token
        if token in job.ends:
            self.done = True
            job.emit(Ended("stop"))
            return
        job.written.append(token)
        job.emit(Token(token))
        if len(job.written) == job.limit:
            self.done = True
            job.emit(Ended("length"))


class Batch:
    """Rows of one sort.

    Args:
        model: the routed model.
        rows: whose prompts have been read.
        cache: of those prompts.
        mask_BL: which columns of the cache are theirs.

    Attributes:
        kept: what experts keep from step to step, for as long as the rows stay the same.
    """

    def __init__(self, model: Any, rows: list[Row], cache: Cache, mask_BL: Tensor) -> None:
        self.model, self.rows, self.cache, self.mask_BL = model, rows, cache, mask_BL
        self.kept: dict[Any, Any] = {}

    @property
    def given(self) -> bool:
        """Whether rows have their weights."""
        return self.rows[0].gates_E is not None

    def join(self, other: Batch) -> None:
        """Takes the rows of another batch of the same sort, which is used up."""
        L = max(self.mask_BL.shape[1], other.mask_BL.shape[1])
        masks = [torch.nn.functional.pad(each, (L - each.shape[1], 0)) for each in (self.mask_BL, other.mask_BL)]
        self.cache, self.kept = joined(self.cache, other.cache), {}
        self.mask_BL = torch.cat(masks)
        self.rows += other.rows

    def prune(self) -> bool:
        """Lets rows go that have ended or that nobody waits for; False when none is left."""
        left = [at for at, row in enumerate(self.rows) if not row.over]
        if len(left) == len(self.rows):
            return True
        self.rows, self.kept = [self.rows[at] for at in left], {}
        if left:
            mask_BL = self.mask_BL[left]
            columns = int(mask_BL.shape[1] - mask_BL.any(0).int().argmax())
            self.mask_BL = mask_BL[:, mask_BL.shape[1] - columns :]
            self.cache = kept(self.cache, left, columns)
        return bool(left)

    def step(self) -> None:
        """One token of every row."""
        token_B1 = torch.tensor([[row.token] for row in self.rows], device=self.mask_BL.device)
        self.mask_BL = torch.cat([self.mask_BL, torch.ones_like(token_B1)], dim=1)
        gates_BE = _gates(self.rows)
        inputs = {"input_ids": token_B1, "attention_mask": self.mask_BL}
        logits_BV = _forward(self.model, inputs, self.cache, gates_BE, prompt=False, kept=self.kept)
        _choose(self.rows, logits_BV)


def decide(model: Any, rows: list[Row]) -> None:
    """Gives rows their weights by a router that decides once on the whole prompt, in a pass of the base alone."""
    ids_BS, mask_BS = _prompts(model, rows)
    real_BS = mask_BS.bool()
    B, S = ids_BS.shape
    with torch.inference_mode():
        context = Context(B, S, real_BS, ids_BS, real_BS)
        expert_BK, weight_BK = decided(model, context, {"input_ids": ids_BS}).unbind(1)
    none_BE = weight_BK.new_zeros(len(rows), len(model.roster.experts))
    gates_BE = none_BE.scatter_add(1, expert_BK.long(), weight_BK)
    for row, gates_E in zip(rows, gates_BE, strict=True):
        row.gates_E = gates_E


def read(model: Any, rows: list[Row]) -> Batch:
    """Reads the prompts of new rows of one sort, and chooses their first tokens."""
    ids_BS, mask_BS = _prompts(model, rows)
    cache, gates_BE, duty = DynamicCache(), _gates(rows), OnDuty(model, len(rows))
    inputs = {"input_ids": ids_BS, "attention_mask": mask_BS}
    if model.roster.virtual is not None and gates_BE is not None:
        model.roster.virtual.put_before(inputs, model.get_input_embeddings(), gates_BE.to(model.device))
    with duty if gates_BE is None else nullcontext():
        logits_BV = _forward(model, inputs, cache, gates_BE, prompt=True)
    for row, gates_E in zip(rows, duty.mean_BE() if gates_BE is None else gates_BE, strict=True):
        row.job.emit(Routed(_by_name(model.roster.experts, gates_E)))
    _choose(rows, logits_BV)
    return Batch(model, rows, cache, inputs["attention_mask"])


def _prompts(model: Any, rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, S]."""
    prompts = padded([row.job.ids for row in rows], pad=0)
    return prompts["input_ids"].to(model.device), prompts["attention_mask"].to(model.device)


def _gates(rows: Sequence[Row]) -> Tensor | None:
    given = [row.gates_E for row in rows if row.gates_E is not None]
    return torch.stack(given) if given else None


def _choose(rows: list[Row], logits_BV: Tensor) -> None:
    for row, token in zip(rows, next_tokens([row.draw for row in rows], logits_BV), strict=True):
        row.take(token)


def _forward(
    model: Any,
    inputs: dict[str, Tensor],
    cache: Cache,
    gates_BE: Tensor | None,
    prompt: bool,
    kept: dict[Any, Any] | None = None,
) -> Tensor:
    """Logits [B, V] of each row's last token; rows have their virtual tokens, where they are to have any."""
    mask_BL, tokens = inputs["attention_mask"], inputs.get("input_ids")
    tokens = inputs["inputs_embeds"] if tokens is None else tokens
    S = tokens.shape[1]
    known: dict[str, Any] = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
    if "position_ids" in type(model).input_names:
        known["position_ids"] = (mask_BL.cumsum(1) - 1).clamp_min(0)[:, -S:]
    if gates_BE is None:
        known["prompt_mask"] = mask_BL[:, -S:].bool() if prompt else torch.zeros_like(mask_BL[:, -S:], dtype=torch.bool)
    else:
        known["gates"] = gates_BE
    with torch.inference_mode(), model.roster.generation.whole(kept=kept):
        output = model(**inputs, past_key_values=cache, use_cache=True, **known)
    logits_BV: Tensor = output.logits[:, -1]
    return logits_BV


def _by_name(experts: Sequence[str], gates_E: Tensor) -> dict[str, float]:
    order = gates_E.argsort(descending=True).tolist()
    return {experts[e]: float(gates_E[e]) for e in order if gates_E[e] != 0}
