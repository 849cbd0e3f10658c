"""Answers on the real ground: every contender on every group, greedily, kept as soon as a group is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import roster
from evidence.auto_ground import Ground
from roster.smol.answers import NEW_TOKENS
from roster.smol.base import load_base, reference_path
from roster.smol.groups import Item

BATCH = 16
GROUPS = ("known", "unseen", "nobody", "switching", "close")


@dataclass(frozen=True)
class Contender:
    """A way to use the folder of adapters.

    Attributes:
        router: a recipe; None is the base alone.
        options: the recipe's.
        task: what `tasks=` names for a question; None for recipes that are told nothing.
        reference: whether it is the one adapter that learned everybody's data, and not the folder.
    """

    router: str | None
    options: dict[str, Any]
    task: Callable[[Item], str | None] | None = None
    reference: bool = False


CONTENDERS: dict[str, Contender] = {
    "base": Contender(None, {}),
    "oracle": Contender("named", {}, lambda item: item.skill if item.close_to is None else None),
    "auto": Contender("auto", {}),
    "auto, early": Contender("auto", {"layer": "early"}),
    "auto, minilm": Contender("auto", {"encoder": "minilm"}),
    "hard: loraretriever, one at full scale": Contender("loraretriever", {"top_k": 1}),
    "loraretriever": Contender("loraretriever", {}),
    "lorauter": Contender("lorauter", {}),
    "logo": Contender("logo", {}),
    "uniform": Contender("uniform", {}),
    "lora-tle": Contender("lora-tle", {"embed": "hidden"}),
    "arrow-mbc": Contender("arrow-mbc", {}),
    "one multi-task LoRA (needs everybody's data)": Contender("uniform", {}, reference=True),
}
"""`best single` is made of single adapters, below."""


def answer_all(ground: Ground, names: Sequence[str], groups: Sequence[str], tick: Callable[[str], None]) -> None:
    """Has contenders answer the groups that they have not answered yet."""
    for name in names:
        todo = [each for each in groups if answers(ground, name, each) is None]
        if not todo:
            continue
        contender = CONTENDERS[name]
        if contender.reference and not any(reference_path().glob("*/adapter_model.safetensors")):
            tick(f"{name}: is not there (`roster smol make --multitask`)")
            continue
        tick(f"{name}: building")
        model, tokenizer = load_base()
        if contender.router is not None:
            experts = reference_path() if contender.reference else ground.adapters
            model = roster.load(
                model, experts=experts, router=contender.router, options=contender.options, tokenizer=tokenizer
            ).eval()
        for each in todo:
            tick(f"{name}: {each}")
            make = partial(_answered, model, tokenizer, contender, ground.items(each))
            ground.kept(_key(ground, name, each), make)


def answers(ground: Ground, name: str, group: str) -> list[str] | None:
    """What a contender has said to a group; None where it has not yet."""
    key = _key(ground, name, group)
    return ground.kept(key, list) if (ground.work / f"{key}.json").exists() else None


def _key(ground: Ground, name: str, group: str) -> str:
    short = "".join(letter if letter.isalnum() else "-" for letter in name)
    return f"answers/{short}-{group}-{len(ground.items(group))}"


@torch.inference_mode()
def _answered(model: Any, tokenizer: Any, contender: Contender, items: Sequence[Item]) -> list[str]:
    told = [""] * len(items)
    texts = [tokenizer.apply_chat_template(item.messages, tokenize=False, add_generation_prompt=True) for item in items]
    order = sorted(range(len(items)), key=lambda at: len(texts[at]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        inputs = tokenizer([texts[at] for at in rows], return_tensors="pt", padding=True, add_special_tokens=False)
        tasks = {} if contender.task is None else {"tasks": [contender.task(items[at]) for at in rows]}
        out = model.generate(
            **inputs, **tasks, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        said = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for at, text in zip(rows, said, strict=True):
            told[at] = text.strip()
    return told
