"""Routers trained for the pocket experts, so that the demo need not train: how they were made, and how to attach them.

The experts stay as they are; only what a recipe adds is trained, on the prompts that the experts themselves were
trained on (each skill alone, or beside a copy; never two skills in one prompt). `phatgoose` has no folder here: its
gates lie beside each expert.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file

from roster.adapters.attach import attach
from roster.adapters.manifest import ROUTER
from roster.adapters.reading import load_router
from roster.adapters.writing import router_state
from roster.library import Library
from roster.pocket import BASE_NAME, routers_path
from roster.pocket.contents import digest
from roster.pocket.experts import training_pairs
from roster.pocket.skills import HELD_IN
from roster.recipes import find
from roster.routed.becoming import detach
from roster.train.data import Row
from roster.train.fit import Settings, fit
from roster.train.gates import train_gates

OPTIONS = "options.json"


@dataclass(frozen=True)
class Plan:
    """How one recipe's router is trained: the recipe's options, and the training's settings."""

    options: dict[str, Any]
    settings: Settings


def _settings(steps: int, batch: int, learning_rate: float) -> Settings:
    return Settings(steps=steps, batch_size=batch, learning_rate=learning_rate, save_every=50, progress=False)


PLANS = {
    "x-lora": Plan({}, _settings(300, 32, 1.5e-2)),
    "mov-molora": Plan({"train_experts": False}, _settings(300, 48, 1e-2)),
    "milora-prompt-routed": Plan({"train_experts": False}, _settings(300, 48, 5e-3)),
    "polytropon": Plan({"train_experts": False}, _settings(150, 24, 3e-1)),
    "smear": Plan({"train_experts": False}, _settings(300, 48, 1e-2)),
}
GATE_SETTINGS = _settings(40, 32, 5e-3)
ROWS_PER_SKILL = 600


def training_rows() -> list[Row]:
    """Prompts of every held-in skill in turn, as the experts saw them; other draws than theirs."""
    rows = []
    for skill in HELD_IN:
        pairs = training_pairs(skill, ROWS_PER_SKILL, Random(digest(f"router/{skill}")))
        rows += [Row(prompt=prompt, answer=answer, task=skill) for prompt, answer in pairs]
    return rows


def train_router(slug: str, base: Any, tokenizer: Any, library: Library, target: Path, scratch: Path) -> dict[str, Any]:
    """Trains one recipe's router on a plain base, which comes back plain; writes it to `target`, returns the record."""
    plan = PLANS[slug]
    torch.manual_seed(plan.settings.seed)
    model = attach(base, library, find(slug)(plan.options), recipe=slug, options=plan.options, tokenizer=tokenizer)
    try:
        record = fit(model, training_rows(), tokenizer, scratch, plan.settings)
        target.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.contiguous().clone() for name, tensor in router_state(model).items()}
        save_file(state, target / f"{ROUTER}.safetensors")
        (target / OPTIONS).write_text(json.dumps(plan.options, indent=1) + "\n", encoding="utf-8")
    finally:
        detach(model)
    return record


def train_all_gates(base: Any, tokenizer: Any, library: Library, scratch: Path) -> dict[str, dict[str, Any]]:
    """Trains the gate vectors beside every expert that has none; returns the records."""
    return train_gates(base, library, training_rows(), tokenizer, scratch, GATE_SETTINGS)


def attach_router(slug: str, base: Any, library: Library, tokenizer: Any, options: dict[str, Any] | None = None) -> Any:
    """Attaches the pocket experts under a recipe, with its trained router where it has one."""
    folder = routers_path() / slug
    if options is None:
        options = json.loads((folder / OPTIONS).read_text(encoding="utf-8")) if folder.exists() else {}
    model = attach(
        base,
        library,
        find(slug)(options),
        recipe=slug,
        options=options,
        tokenizer=tokenizer,
        prepare=not folder.exists(),
    )
    if folder.exists():
        load_router(model, folder)
    model.roster.base_name = BASE_NAME
    return model
