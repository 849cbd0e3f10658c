"""The stages of `make`: an adapter a stage, with its card and its note in the record; what is complete is skipped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file

from roster.pocket.contents import digest
from roster.pocket.record import Record
from roster.prompts import Message, Rendering
from roster.saving import writing
from roster.shelf.card import Card
from roster.smol import BASE_NAME
from roster.smol.answers import accuracy
from roster.smol.shapes import MULTITASK, SHAPES, Shape, lora_config
from roster.smol.skills import SKILLS, Question, questions
from roster.smol.training import adapt, train
from roster.weights.kept import Kept

CARD_PROMPTS = 20
MEASURED = 40
"""Test questions behind each accuracy."""
MULTITASK_NAME = "multitask"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def card(skill: str, template: str | None = None) -> Card:
    """What is told about an adapter beside its weights; its examples are prompts of the training split.

    Args:
        skill: that it was trained for.
        template: digest of the chat template that it was trained with.
    """
    prompts: list[str | list[Message]] = [each.prompt for each in questions(skill, "train", CARD_PROMPTS, seed=1)]
    return Card(task=skill, description=SKILLS[skill].description, examples=prompts, base=BASE_NAME, template=template)


def save(model: Any, folder: Path, about: Card, shape: Shape) -> None:
    """Write the adapter in PEFT's format, in bfloat16, with its card: whole or not at all."""
    from peft import get_peft_model_state_dict

    state = {name: each.to(torch.bfloat16).contiguous() for name, each in get_peft_model_state_dict(model).items()}
    config = {
        name: sorted(each) if isinstance(each, set) else each for name, each in lora_config(shape).to_dict().items()
    }
    with writing(folder) as unfinished:
        save_file(state, unfinished / WEIGHTS, metadata={"format": "pt"})
        (unfinished / CONFIG).write_text(
            json.dumps(config | {"base_model_name_or_path": BASE_NAME, "inference_mode": True}, indent=1, default=str)
            + "\n"
        )
        about.write(unfinished)


def measure(model: Any, tokenizer: Any, skill: str) -> dict[str, float]:
    """Exact answers to test items, in wordings of the training and in wordings never seen."""
    return {
        wordings: accuracy(model, tokenizer, questions(skill, "test", MEASURED, wordings=wordings))
        for wordings in ("train", "test")
    }


def make_adapter(
    base: Any, tokenizer: Any, skill: str, out: Path, record: Record, tick: Callable[[float], None]
) -> dict[str, float]:
    """Train, save and measure one adapter; ``base`` is left as it was.

    Returns:
        Its accuracy in known and in unseen wordings.
    """
    model = adapt(base, skill, SHAPES[skill])
    try:
        asked = questions(skill, "train", SHAPES[skill].steps * SHAPES[skill].batch)
        how = train(model, tokenizer, asked, SHAPES[skill], tick)
        _round(model)
        scores = measure(model, tokenizer, skill)
        save(model, out / skill, card(skill, Rendering(tokenizer).digest), SHAPES[skill])
    finally:
        model.unload()
    record.note("adapters", skill, {**asdict(SHAPES[skill]), **how, "known": scores["train"], "unseen": scores["test"]})
    return scores


def everybodys(skills: Sequence[str]) -> list[Question]:
    """What the adapters of these skills were trained on, all in one order."""
    asked = [each for name in skills for each in questions(name, "train", SHAPES[name].steps * SHAPES[name].batch)]
    Random(digest(f"smol/{MULTITASK_NAME}")).shuffle(asked)
    return asked


def make_multitask(
    base: Any, tokenizer: Any, skills: Sequence[str], folder: Path, record: Record, tick: Callable[[float], None]
) -> dict[str, dict[str, float]]:
    """Train, save and measure one adapter for all skills, the reference that needs everybody's data.

    Returns:
        Its accuracy by skill, in known and in unseen wordings.
    """
    asked = everybodys(skills)
    shape = replace(MULTITASK, steps=len(asked) // MULTITASK.batch)
    depends = json.dumps([asdict(shape), [[each.prompt, each.answer] for each in asked]])
    kept = Kept(folder / f"{MULTITASK_NAME}-training.safetensors", f"{digest(depends):x}")
    model = adapt(base, MULTITASK_NAME, shape)
    try:
        how = train(model, tokenizer, asked[: shape.steps * shape.batch], shape, tick, kept)
        _round(model)
        weights = sum(each.numel() for each in model.parameters() if each.requires_grad)
        found = {}
        for skill in skills:
            scores = measure(model, tokenizer, skill)
            found[skill] = {"known": scores["train"], "unseen": scores["test"]}
        about = Card(task=MULTITASK_NAME, description="All skills at once.", base=BASE_NAME)
        save(model, folder / MULTITASK_NAME, about, shape)
        kept.drop()
    finally:
        model.unload()
    needs = "the data of every adapter in one place, and a new training for every new skill"
    record.note("multitask", "training", {**asdict(shape), **how, "weights": weights, "needs": needs})
    for skill, scores in found.items():
        record.note("multitask", skill, scores)
    return found


def _round(model: Any) -> None:
    """To the numbers of bfloat16: an adapter is measured as it is shipped."""
    for each in model.parameters():
        if each.requires_grad:
            each.data = each.data.to(torch.bfloat16).to(each.dtype)


def measure_base(base: Any, tokenizer: Any, skill: str, record: Record) -> None:
    """Note the base's accuracy on a skill."""
    scores = measure(base, tokenizer, skill)
    record.note("base", skill, {"known": scores["train"], "unseen": scores["test"]})
