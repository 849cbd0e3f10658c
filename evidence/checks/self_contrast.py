"""Self-contrast: a tiny mixture that adds two numbers is right more often when it decodes by self-contrast than
greedily, and than with more experts.

Strings such as `47+85=132.` (three digits plus three), character by character; top-2 of 8 experts, two layers. beta and
the rank of the weak expert are chosen on 300 sums; figures are for 600 others. More experts: top-3, top-4, and all.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from roster.moe.contrast import SelfContrast
from roster.moe.replacing import replace
from roster.moe.twin import rerouted
from roster.select import Rank, TopK

CHARACTERS = "0123456789+=."
DIGITS, STEPS, ROWS, TUNING, TEST = 3, 1500, 64, 300, 600
BETAS, RANKS = (0.1, 0.25, 0.5, 1.0), (2, 3, 8)


def check(seed: int) -> dict[str, float]:
    """Shares of sums that are right."""
    model = _trained(seed)
    generator = torch.Generator().manual_seed(seed + 77)
    tuning, test = _sums(TUNING, generator), _sums(TEST, generator)
    beta, rank = max(
        itertools.product(BETAS, RANKS), key=lambda each: _right(model, tuning, _contrast(model, each[0], each[1]))
    )
    figures = {"greedy": _right(model, test), "self-contrast": _right(model, test, _contrast(model, beta, rank))}
    for k in (3, 4, 8):
        more = rerouted(model, lambda router, k=k: TopK(k))
        figures[f"top-{k}"] = _right(more, test)
    return {**figures, "beta chosen": beta, "rank chosen": rank}


def shown(figures: list[dict[str, float]]) -> bool:
    """In the mean over seeds self-contrast is right more often than greedy decoding and than any number of experts, and
    than greedy at most seeds.
    """

    def mean(name: str) -> float:
        return sum(each[name] for each in figures) / len(figures)

    wins = sum(each["self-contrast"] > each["greedy"] for each in figures)
    others = ("greedy", "top-3", "top-4", "top-8")
    return mean("self-contrast") > max(map(mean, others)) and wins > len(figures) / 2


def _trained(seed: int) -> Any:
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(CHARACTERS),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = replace(transformers.AutoModelForCausalLM.from_config(config), "gshard-top2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(STEPS):
        prompt_BS, answer_BS = _sums(ROWS, generator)
        ids_BS = torch.cat([prompt_BS, answer_BS], 1)
        labels_BS = ids_BS.clone()
        labels_BS[:, : prompt_BS.shape[1]] = -100
        optimizer.zero_grad()
        model(input_ids=ids_BS, labels=labels_BS, use_cache=False).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def _sums(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(prompts, answers) as ids; all of one length, by leading zeros."""
    pairs = torch.randint(0, 10**DIGITS, (rows, 2), generator=generator).tolist()
    prompts = [f"{a:0{DIGITS}}+{b:0{DIGITS}}=" for a, b in pairs]
    answers = [f"{a + b:0{DIGITS + 1}}." for a, b in pairs]
    return tuple(torch.tensor([[CHARACTERS.index(c) for c in text] for text in part]) for part in (prompts, answers))


def _contrast(model: Any, beta: float, rank: int) -> SelfContrast:
    return SelfContrast(model, beta=beta, weak=Rank(rank))


def _right(model: Any, sums: tuple[Tensor, Tensor], contrast: SelfContrast | None = None) -> float:
    """Share of answers that are right in every character."""
    prompt_BS, answer_BS = sums
    answered_BS = model.generate(
        prompt_BS,
        attention_mask=torch.ones_like(prompt_BS),
        logits_processor=[] if contrast is None else [contrast],
        max_new_tokens=answer_BS.shape[1],
        do_sample=False,
    )
    return float((answered_BS[:, prompt_BS.shape[1] :] == answer_BS).all(1).float().mean())
