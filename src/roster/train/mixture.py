"""Short training of a plain transformers mixture, after it was converted or made smaller: its routers, a LoRA, or all.

Mixtures of `roster convert` and `roster compress` know from the start what they were made of, but their routers have
never been trained together with their experts. Weights are learned in float32 and written in the type that they had; a
LoRA is merged into them, so that what comes out is again a checkpoint that plain transformers and vLLM load. Balance is
the model's own auxiliary loss, by `router_aux_loss_coef` of its config, wherever routers are trained.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, Trainer

from roster.convert.fitting import FLAT
from roster.errors import RosterError
from roster.prompts import Rendering
from roster.routed.base import load_base, load_tokenizer, locate
from roster.saving import writing
from roster.train.fit import Settings, learn
from roster.train.plan import scratch_folder
from roster.train.texts import read_lessons

Part = Literal["router", "lora", "all"]
PART = "trained.safetensors"
"""What a checkpoint holds of the model: those parameters that are trained."""
_ROUTER = re.compile(r"\.(gate|router|router\.layer)\.weight$")
_FLAT_BELOW = 2.0**-9
"""Largest entry of routers that were made flat, several times over: others are at least ten times as large."""


class PartTrainer(Trainer):
    """Checkpoints hold what is trained, not the model around it."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: each.detach().contiguous() for name, each in _trained(self.model)}, folder / PART)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        found = load_file(Path(resume_from_checkpoint) / PART)
        with torch.no_grad():
            for name, each in _trained(self.model if model is None else model):
                each.copy_(found[name])


def train_mixture(
    source: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    part: Part = "router",
    settings: Settings = Settings(learning_rate=1e-3),  # noqa: B008
    rank: int = 8,
    sharpen: bool = False,
    length: int = 512,
    template: bool = True,
) -> dict[str, Any]:
    """Trains a mixture and writes it as a plain checkpoint.

    Args:
        source: folder or hub name of a transformers mixture.
        data: see `roster.train.texts.read_lessons`.
        out: the folder to write; an interrupted training leaves `OUT.training`, from which the same call goes on to the
            same bits.
        part: "router"; "lora", on every linear layer that is none; or "all".
        settings: of the training.
        rank: of the LoRA, whose scale is 2.
        sharpen: whether routers that were made flat (`cmoe`, `factorllm`) are multiplied by 2^13 first.
        length: tokens of a piece of text.
        template: False reads prompts as they stand.

    Returns:
        A record: lessons, how many parameters were trained, losses by step, seconds.

    Raises:
        RosterError: a model without routers or tokenizer, flat routers that would be trained as they are, rows that do
            not fit, a folder that is in use; before any work.
    """
    out, data = Path(os.path.abspath(out)), Path(data)
    if out.exists() and any(out.iterdir()) and not (out / "config.json").exists():
        raise RosterError(f"{str(out)!r} is not empty and not a model; choose another folder")
    tokenizer = load_tokenizer(source)
    if tokenizer is None:
        raise RosterError(f"there is no tokenizer beside {str(source)!r}, which training needs")
    stored = AutoConfig.from_pretrained(locate(source)[0]).dtype or torch.float32
    model, _ = load_base(source, dtype=torch.float32)
    _prepare_routers(model, str(source), part, sharpen)
    rendering = Rendering(tokenizer, template)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    lessons = read_lessons(data, rendering, length, limit)
    plan = {
        "source": _digest_of(model),
        "part": [part, rank, sharpen],
        "chat template": rendering.digest,
        "data": hashlib.sha256(data.read_bytes()).hexdigest(),
        "length": length,
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("progress", "save_every")},
    }
    with scratch_folder(out.with_name(out.name + ".training"), plan) as scratch:
        torch.manual_seed(settings.seed)
        adapted = _choose(model, part, rank)
        count = sum(each.numel() for _, each in _trained(adapted))
        with _balanced(model, part):
            record = learn(adapted, lessons, rendering.pad_token_id, scratch, settings, PartTrainer, PART)
        plain = adapted.merge_and_unload() if part == "lora" else adapted
        with writing(out) as new:
            plain.to(stored).save_pretrained(new)
            tokenizer.save_pretrained(new)
    return {"lessons": len(lessons), "trained": count, **record}


def routers(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The weights of a transformers mixture's routers, by their names."""
    return [(name, each) for name, each in model.named_parameters() if _ROUTER.search(name)]


def _prepare_routers(model: nn.Module, name: str, part: Part, sharpen: bool) -> None:
    found = routers(model)
    if not found:
        raise RosterError(f"{name!r} is no mixture: no parameter is called as a router is (mlp.gate.weight)")
    flat = all(float(each.detach().abs().max()) < _FLAT_BELOW for _, each in found)
    if flat and not sharpen and part != "lora":
        raise RosterError(
            f"the routers of {name!r} were made flat, so that the chosen experts weigh alike (cmoe, factorllm); "
            "trained as they are they would be lost in the first step: give --sharpen, which multiplies them by 2^13"
        )
    if sharpen and not flat:
        raise RosterError(f"the routers of {name!r} are not flat: leave --sharpen out")
    if sharpen:
        with torch.no_grad():
            for _, each in found:
                each.div_(FLAT)


def _choose(model: Any, part: Part, rank: int) -> Any:
    """The model with a gradient where it is trained."""
    if part == "lora":
        import peft

        named = {name.removesuffix(".weight") for name, _ in routers(model)}
        linear = [name for name, each in model.named_modules() if isinstance(each, nn.Linear) and name not in named]
        head = model.get_output_embeddings()
        targets = [name for name in linear if model.get_submodule(name) is not head]
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=targets)
        return peft.get_peft_model(model, config)
    chosen = {name for name, _ in routers(model)}
    for name, each in model.named_parameters():
        each.requires_grad_(part == "all" or name in chosen)
    return model


@contextmanager
def _balanced(model: Any, part: Part) -> Iterator[None]:
    """The model adds its own balance loss while its routers are trained."""
    config = model.config.get_text_config()
    before = getattr(config, "output_router_logits", None)
    if before is None or part == "lora":
        yield
        return
    config.output_router_logits = True
    try:
        yield
    finally:
        config.output_router_logits = before


def _trained(model: Any) -> list[tuple[str, nn.Parameter]]:
    return [(name, each) for name, each in model.named_parameters() if each.requires_grad]


def _digest_of(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, each in model.named_parameters():
        digest.update(repr((name, tuple(each.shape), each.detach().double().sum().item())).encode())
    return digest.hexdigest()
