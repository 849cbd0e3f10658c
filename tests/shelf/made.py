"""Folders of adapters that are sound by their headers, made without torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from roster.shelf.card import CARD
from roster.shelf.folders import CONFIG, WEIGHTS


def adapter(folder: Path, name: str, *, layers: int = 1, rank: int = 2, config: Any = None, **card: Any) -> Path:
    """One adapter of q_proj in some layers, all zero."""
    path = folder / name
    path.mkdir(parents=True)
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"], **(config or {})}
    (path / CONFIG).write_text(json.dumps({"base_model_name_or_path": "a/base", **fields}))
    (path / CARD).write_text(json.dumps({"task": name, **card}))
    header, at = {}, 0
    for layer in range(layers):
        for factor, shape in (("lora_A", [rank, 8]), ("lora_B", [8, rank])):
            key = f"base_model.model.model.layers.{layer}.self_attn.q_proj.{factor}.weight"
            header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 32 * rank]}
            at += 32 * rank
    text = json.dumps(header).encode()
    (path / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))
    return path
