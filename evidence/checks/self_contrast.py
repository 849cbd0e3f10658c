"""Self-contrast: a mixture that decodes by the contrast of its routing with a weaker one is right more often than
when it decodes greedily.

Strings such as `47+85=132.` (two digits plus two), character by character; top-2 of 8 experts, two layers. beta and the
rank of the weak expert are chosen on 300 sums; figures are for 600 others.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.moe.contrast import SelfContrast
from roster.moe.replacing import replace
from roster.moe.twin import rerouted
from roster.select import Rank, TopK

CHARACTERS = "0123456789+=."
DIGITS, STEPS, ROWS, TUNING, TEST = 2, 700, 64, 300, 600
BETAS, RANKS = (0.1, 0.25, 0.5, 1.0), (2, 3, 8)


@lru_cache(maxsize=2)
def _ground(draw: Draw) -> tuple[Any, Any, Any]:
    """(A trained model, sums to choose by, sums to judge by)."""
    generator = torch.Generator().manual_seed(draw.ground + 77)
    test = _sums(TEST, generator)
    generator.manual_seed(draw.luck + 1_000)
    return _trained(draw), _sums(TUNING, generator), test


def _share(way: str) -> Contender:
    """Share of sums that are right."""

    def run(draw: Draw) -> float:
        model, tuning, test = _ground(draw)
        if way == "greedy":
            return _right(model, test)
        if way == "more experts":
            return max(_right(rerouted(model, lambda _router, k=k: TopK(k)), test) for k in (3, 4))
        if way == "fewer experts":
            return _right(rerouted(model, lambda _router: TopK(1)), test)
        ranks = RANKS if way == "contrast" else (1,)
        beta, rank = max(
            itertools.product(BETAS, ranks), key=lambda each: _right(model, tuning, _contrast(model, each[0], each[1]))
        )
        return _right(model, test, _contrast(model, beta, rank))

    return run


def _trained(draw: Draw) -> Any:
    import transformers

    torch.manual_seed(draw.luck)
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
    steps = draw.steps(STEPS)
    model = replace(transformers.AutoModelForCausalLM.from_config(config), "gshard-top2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(draw.luck)
    model.train()
    for _ in range(steps):
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


CHECKS = (
    make_check(
        slug="scmoe-self-contrast",
        version=1,
        claim="Decoded by the contrast of strong and weak routing, a mixture is right more often than greedily.",
        ground="sums of two numbers of two digits, by a model of two layers trained for 700 steps of 64; 600 sums",
        budget="a second forward pass per token; the same model; strength and weak rank chosen on 300 other sums",
        contenders={
            "self-contrast": ("the weak expert is the second, third or eighth by score", _share("contrast")),
            "greedy": ("top-2, no contrast", _share("greedy")),
            "first": ("contrast with the best expert alone, which is no weak one", _share("first")),
            "more experts": ("the better of top-3 and top-4, no contrast", _share("more experts")),
            "one expert": ("control, a handicap to greedy: top-1", _share("fewer experts")),
        },
        pairs=Pairs("self-contrast", "greedy", "first", "greedy", "one expert"),
        statistic=Statistic("share of sums that are right", "higher", 0.01),
    ),
)
