"""KA and SAR: a mixture distilled into a dense student by all of its experts, not only by those on duty.

The student writes answers itself and learns from reverse KL(student || teacher), token by token, on what it wrote.
KA ("ka"): each batch has `passes` teacher passes and as many student steps; in each pass and layer N - 1 of the N
experts are on, with probability `chance` drawn without replacement by the router's probabilities, else the N - 1 best;
weights are the softmax over the chosen ones' logits.
SAR ("sar"): all experts are on, softmax over all logits; each step first moves the teacher's routers (and nothing else
of it) towards the student, by the same divergence plus `balance` * CV(importance)^2, then the student towards it.
Yardsticks: "top-k" (the teacher as it is) and "all" (all experts, routers untouched).

Source: Kim et al. 2025, Every Expert Matters, arXiv 2502.12947, read second-hand; no code of the authors was found.
Differences: CV(load)^2 is constant where all experts are on, and is left out. Teacher and student are in memory, whole.

Shape legend: B rows, S tokens, T = B * S, N experts, V words.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from roster.errors import RosterError, nearest
from roster.prompts import padded

MODES = ("sar", "ka", "all", "top-k")
Chooser = Callable[[Tensor], Tensor]
"""logits [T, N] -> experts that are on, [T, K]."""


@dataclass(frozen=True)
class Settings:
    """Of the distillation.

    Attributes:
        mode: "sar", "ka", "all" or "top-k".
        steps: of the student.
        rate: the student's learning rate.
        router_rate: the routers' (SAR).
        passes: teacher passes of a batch (KA).
        chance: that experts are drawn and not the best (KA).
        balance: weight of CV(importance)^2 (SAR).
        batch: prompts of a step.
        tokens: of an answer at most.
        seed: of order, answers and experts.
    """

    mode: str = "sar"
    steps: int = 100
    rate: float = 1e-4
    router_rate: float = 1e-4
    passes: int = 2
    chance: float = 0.05
    balance: float = 0.01
    batch: int = 4
    tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises RosterError: an unknown mode, or numbers that cannot be."""
        if self.mode not in MODES:
            raise RosterError(f"moe-kd-ka-sar: mode={self.mode!r}: {nearest(self.mode, MODES)}")
        if min(self.steps, self.passes, self.batch, self.tokens) < 1 or min(self.rate, self.router_rate) <= 0:
            raise RosterError("moe-kd-ka-sar: steps, passes, batch, tokens and rates must be above 0")
        if not 0 <= self.chance <= 1 or self.balance < 0:
            raise RosterError("moe-kd-ka-sar: chance is from 0 to 1, balance not below 0")


def distil(
    teacher: Any,
    student: Any,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    pad: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Trains the student in place (and with SAR the teacher's routers).

    Args:
        teacher: a mixture of transformers whose blocks have a `gate` with a weight, and `experts`.
        student: a causal model with the same words.
        prompts: tokens of each.
        settings: see there.
        pad: fills up rows, on the left.
        progress: told of steps done.

    Returns:
        Reverse KL per token at every student step.

    Raises:
        RosterError: other words, or a teacher without experts.
    """
    blocks = find_blocks(teacher)
    if teacher.config.vocab_size != student.config.vocab_size:
        raise RosterError(
            f"teacher and student must have the same words: {teacher.config.vocab_size} and {student.config.vocab_size}"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    teacher.requires_grad_(False).eval()
    routers = [block.gate.weight for block in blocks]
    if settings.mode == "sar":
        for each in routers:
            each.requires_grad_(True)
    learner = torch.optim.AdamW(student.parameters(), lr=settings.rate)
    tuner = torch.optim.AdamW(routers, lr=settings.router_rate, weight_decay=0.0)
    told: list[float] = []
    while len(told) < settings.steps:
        at = torch.randint(len(prompts), (settings.batch,), generator=generator).tolist()
        batch = padded([prompts[each] for each in at], pad, "left")
        ids, mask, written = _written(student, batch, settings, generator, pad)
        if settings.mode == "sar":
            with routed(blocks, _all) as logits:
                apart = reverse_kl(_logits(student, ids, mask).detach(), _logits(teacher, ids, mask), written)
                loss = apart + settings.balance * torch.stack([uneven(each, mask) for each in logits]).mean()
            tuner.zero_grad()
            loss.backward()
            tuner.step()
        for _ in range(settings.passes if settings.mode == "ka" else 1):
            with routed(blocks, _chooser(settings, generator)), torch.no_grad():
                wanted = _logits(teacher, ids, mask)
            apart = reverse_kl(_logits(student.train(), ids, mask), wanted, written)
            learner.zero_grad()
            apart.backward()
            learner.step()
            told.append(float(apart.detach()))
            if progress is not None:
                progress(len(told), settings.steps)
    student.eval()
    return told[: settings.steps]


def find_blocks(teacher: Any) -> list[Any]:
    """The teacher's mixtures; RosterError where there is none that can be routed otherwise."""
    found = [
        module
        for module in teacher.modules()
        if hasattr(module, "experts") and isinstance(getattr(getattr(module, "gate", None), "weight", None), Tensor)
    ]
    if not found:
        raise RosterError(
            f"{type(teacher).__name__} has no mixtures with a linear gate: it is no teacher for this method"
        )
    return found


@contextmanager
def routed(blocks: Sequence[Any], choose: Chooser | None) -> Iterator[list[Tensor]]:
    """Mixtures that send tokens to others than their gates would; the logits of every call. None leaves them."""
    found: list[Tensor] = []

    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits_TN = linear(x.reshape(-1, x.shape[-1]), self.weight).float()
        found.append(logits_TN)
        chosen_TK = choose(logits_TN.detach())  # type: ignore[misc]  # only where it is not None
        weight_TK = logits_TN.gather(1, chosen_TK).softmax(-1)
        return logits_TN, weight_TK.to(x.dtype), chosen_TK

    if choose is not None:
        for block in blocks:
            block.gate.forward = types.MethodType(forward, block.gate)
    try:
        yield found
    finally:
        if choose is not None:
            for block in blocks:
                del block.gate.forward


def all_but_one(chance: float, generator: torch.Generator) -> Chooser:
    """KA's choice: N - 1 experts, drawn with a probability, else the best."""

    def choose(logits_TN: Tensor) -> Tensor:
        count = max(logits_TN.shape[1] - 1, 1)
        if float(torch.rand(1, generator=generator)) < chance:
            return torch.multinomial(logits_TN.softmax(-1).clamp(min=1e-9).cpu(), count, generator=generator).to(
                logits_TN.device
            )
        return logits_TN.topk(count).indices

    return choose


def reverse_kl(student_BSV: Tensor, teacher_BSV: Tensor, written_BS: Tensor) -> Tensor:
    """Mean over the tokens that were written of KL(student || teacher) at the place that predicts them."""
    p, q = (each[:, :-1].float().log_softmax(-1) for each in (student_BSV, teacher_BSV))
    apart_BS = (p.exp() * (p - q)).sum(-1)
    counted_BS = written_BS[:, 1:].to(apart_BS)
    return (apart_BS * counted_BS).sum() / counted_BS.sum().clamp(min=1)


def uneven(logits_TN: Tensor, mask_BS: Tensor) -> Tensor:
    """CV(importance)^2 of one layer: of the sums of probabilities, by expert."""
    importance_N = logits_TN[mask_BS.flatten().bool()].softmax(-1).sum(0)
    return importance_N.var(correction=0) / importance_N.mean() ** 2


def _all(logits_TN: Tensor) -> Tensor:
    return torch.arange(logits_TN.shape[1], device=logits_TN.device).expand(len(logits_TN), -1)


def _chooser(settings: Settings, generator: torch.Generator) -> Chooser | None:
    chosen: dict[str, Chooser | None] = {"top-k": None, "ka": all_but_one(settings.chance, generator)}
    return chosen.get(settings.mode, _all)


def _logits(model: Any, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
    position_BS = (mask_BS.cumsum(-1) - 1).clamp(min=0)
    made: Tensor = model(input_ids=ids_BS, attention_mask=mask_BS, position_ids=position_BS, use_cache=False).logits
    return made


@torch.no_grad()
def _written(
    student: Any, batch: dict[str, Tensor], settings: Settings, generator: torch.Generator, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, which tokens the student wrote) of prompts and sampled answers, an end of sequence included."""
    ends = getattr(student.generation_config, "eos_token_id", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        ids = student.eval().generate(
            **batch, do_sample=True, top_k=0, temperature=1.0, max_new_tokens=settings.tokens, pad_token_id=pad
        )
    start = batch["input_ids"].shape[1]
    answer = ids[:, start:]
    end = torch.isin(answer, torch.as_tensor(ends)) if ends is not None else torch.zeros_like(answer, dtype=torch.bool)
    here = (end.cumsum(1) - end.long()) == 0  # up to the first end, and it
    mask = torch.cat([batch["attention_mask"], here.long()], dim=1)
    written = torch.cat([torch.zeros_like(batch["attention_mask"]), here.long()], dim=1)
    return ids, mask, written
