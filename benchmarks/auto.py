"""What `auto` costs: deciding, the first token, and every further token, beside the base and a named adapter.

    python benchmarks/auto.py

A Llama of SmolLM2-135M's shape with random weights in bfloat16 and 24 random adapters of different ranks and targets;
one prompt of 64 tokens, batch 1, one thread, whose own seconds count: what else the machine does matters less.
Beside them stands the same adapter alone, as PEFT runs it: what anybody pays who uses an adapter without merging it.
Everything is timed in turns in one process; ratios are medians over pairs of neighbours in time. The decision among
10,000 adapters is timed with the features given.

Results go to benchmarks/results/auto.json with versions, machine and load.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from rich.console import Console

from moe import about
from roster.adapters.attach import attach
from roster.auto.judge import Judge
from roster.library import Card, Library, LowRank, make_adapter
from roster.recipes import RECIPES

RESULTS = Path(__file__).parent / "results" / "auto.json"
ADAPTERS, PROMPT, TOKENS, WIDTH, MANY = 24, 64, 16, 576, 10_000
KINDS = (
    (8, ("q_proj", "v_proj")),
    (4, ("q_proj", "k_proj", "v_proj", "o_proj")),
    (16, ("v_proj", "o_proj", "down_proj")),
)
ROUNDS = 5


class Characters:
    """A tokenizer of one token per character."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(each) for each in text]}


def base() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=WIDTH, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, tie_word_embeddings=True, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


def library(model: Any) -> Library:
    generator, adapters = torch.Generator().manual_seed(1), {}
    for number in range(ADAPTERS):
        rank, targets = KINDS[number % len(KINDS)]
        modules = {}
        for name, linear in model.named_modules():
            if name.rsplit(".", 1)[-1] in targets:
                out, width = linear.weight.shape
                A = torch.randn(rank, width, generator=generator) * width**-0.5
                B = torch.randn(out, rank, generator=generator) * 0.01
                modules[name] = LowRank(A.bfloat16(), B.bfloat16(), 2.0)
        letter = chr(ord("a") + number)
        card = Card(task=letter, examples=[letter * length for length in (8, 12)], base="random")
        adapters[letter] = make_adapter(letter, modules, base="random", card=card)
    return Library(adapters)


def peft_alone(letter: str) -> Any:
    """The base with one adapter of the library, active in PEFT."""
    model = base()
    update = library(model)[letter]
    targets = sorted({name.rsplit(".", 1)[-1] for name in update.modules})
    rank = next(iter(update.modules.values())).A_RD.shape[0]
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    alone = peft.get_peft_model(model, config, autocast_adapter_dtype=False).to(torch.bfloat16).eval()
    layers = dict(alone.base_model.model.named_modules())
    with torch.no_grad():
        for name, each in update.modules.items():
            layers[name].lora_A["default"].weight.copy_(each.A_RD)
            layers[name].lora_B["default"].weight.copy_(each.B_OR)
    return alone


def routed(recipe: str, **options: Any) -> Any:
    model = base()
    return attach(
        model, library(model), RECIPES[recipe](options), recipe=recipe, options=options, tokenizer=Characters()
    ).eval()


def timed(run: Callable[[], object]) -> float:
    started = time.thread_time()
    run()
    return time.thread_time() - started


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    console = Console()
    plain, alone = base(), peft_alone("c")
    named, auto = routed("named"), routed("auto", layer=5, abstain=False)
    ids = torch.tensor([[ord("c")] * PROMPT])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False}
    task = {"tasks": ["c"]}
    runs: dict[str, Callable[[int], object]] = {
        "base": lambda n: plain.generate(**given, max_new_tokens=n, min_new_tokens=n),
        "peft": lambda n: alone.generate(**given, max_new_tokens=n, min_new_tokens=n),
        "named": lambda n: named.generate(**given, **task, max_new_tokens=n, min_new_tokens=n),
        "auto": lambda n: auto.generate(**given, max_new_tokens=n, min_new_tokens=n),
    }
    first: dict[str, list[float]] = {name: [] for name in runs}
    token: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            one = timed(lambda run=run: run(1))
            first[name].append(one)
            token[name].append((timed(lambda run=run: run(TOKENS)) - one) / (TOKENS - 1))
    decision = [timed(decide) for decide in [decider()] * 60][10:]
    result = {
        **about(),
        "first token, ms": {name: round(1000 * statistics.median(each), 1) for name, each in first.items()},
        "further token, ms": {name: round(1000 * statistics.median(each), 2) for name, each in token.items()},
        "first token, auto / named": ratio(first["auto"], first["named"]),
        "further token, auto / base": ratio(token["auto"], token["base"]),
        "further token, peft / base": ratio(token["peft"], token["base"]),
        "decision among 10,000, ms": round(1000 * statistics.median(decision), 3),
        "decision among 10,000, ms, fastest": round(1000 * min(decision), 3),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print_json(data=result)


def ratio(one: list[float], other: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 3)


def decider() -> Callable[[], object]:
    judge, index = Judge(MANY), torch.arange(MANY)
    none = torch.zeros(0, dtype=torch.long)
    start = judge.knowledge
    judge.learn(
        replace(
            start,
            header_H=none,
            center_F=torch.zeros(WIDTH),
            whiten_FF=torch.eye(WIDTH),
            means_FM=torch.nn.functional.normalize(torch.randn(WIDTH, MANY + 1), dim=0),
            expert_C=index,
            class_E=index,
        )
    )
    features_BF = torch.randn(1, WIDTH)

    def decide() -> object:
        with torch.no_grad():
            return judge(features_BF)

    return decide


if __name__ == "__main__":
    main()
