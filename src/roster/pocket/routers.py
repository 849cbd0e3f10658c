"""Routers trained for the pocket experts, so that the demo need not train: how they were made, and how to attach them.

The experts stay as they are; only what a recipe adds is trained, on the prompts that the experts themselves were
trained on (each skill alone, or beside a copy; never two skills in one prompt). `phatgoose` has no folder here: its
gates lie beside each expert.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from safetensors.torch import save_file

from roster.library import Library
from roster.mixture.attach import attach, detach
from roster.mixture.folder import load_router, router_state
from roster.pocket import experts_path, routers_path
from roster.pocket.contents import digest
from roster.pocket.experts import training_pairs
from roster.pocket.skills import HELD_IN
from roster.recipes import find
from roster.train.data import Row
from roster.train.fit import Settings, fit
from roster.train.gates import train_gates

TRAINED: dict[str, dict[str, Any]] = {
    "x-lora": {},
    "mov-molora": {"train_experts": False},
    "milora-prompt-routed": {"train_experts": False},
    "polytropon": {"train_experts": False},
    "smear": {"train_experts": False},
}
"""The options of each recipe whose router is trained here."""

SETTINGS = Settings(steps=150, batch_size=48, learning_rate=5e-3, progress=False)
GATE_SETTINGS = Settings(steps=40, batch_size=32, learning_rate=5e-3, progress=False)
ROWS_PER_SKILL = 600


def training_rows() -> list[Row]:
    """Prompts of every held-in skill in turn, as the experts saw them; other draws than theirs."""
    rows = []
    for skill in HELD_IN:
        pairs = training_pairs(skill, ROWS_PER_SKILL, Random(digest(f"router/{skill}")))
        rows += [Row(prompt=prompt, answer=answer, task=skill) for prompt, answer in pairs]
    return rows


def train_router(slug: str, base: Any, tokenizer: Any, target: Path, scratch: Path) -> dict:
    """Trains one recipe's router on a plain base, which comes back plain; returns the record."""
    options = TRAINED[slug]
    library = Library.read(experts_path())
    model = attach(base, library, find(slug)(options), recipe=slug, options=options, tokenizer=tokenizer)
    try:
        record = fit(model, training_rows(), tokenizer, scratch, SETTINGS)
        target.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: t.contiguous().clone() for name, t in router_state(model).items()}, target / "router.safetensors"
        )
        (target / "options.json").write_text(json.dumps(options, indent=1) + "\n", encoding="utf-8")
    finally:
        detach(model)
    return record


def train_all_gates(base: Any, tokenizer: Any, scratch: Path) -> dict[str, dict]:
    """Trains the gate vectors beside every pocket expert that has none; returns the records."""
    return train_gates(base, Library.read(experts_path()), training_rows(), tokenizer, scratch, GATE_SETTINGS)


def attach_router(slug: str, base: Any, library: Library, tokenizer: Any, options: dict[str, Any] | None = None) -> Any:
    """Attaches the pocket experts under a recipe, with its trained router where it has one."""
    folder = routers_path() / slug
    if options is None:
        options = json.loads((folder / "options.json").read_text(encoding="utf-8")) if folder.exists() else {}
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
    model.roster.base_name = "roster/pocket-base"
    return model
