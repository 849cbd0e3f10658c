"""Training one expert: a LoRA adapter on a base, from prompts and answers, as PEFT and transformers' `Trainer` do it.

Prompts and answers go through the tokenizer's chat template; the loss counts the answers only. A share of the rows is
held out: the adapter is that of the step at which it answers these best, and training stops when they get no better.
The adapter is written in PEFT's format with its card, whole or not at all.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import peft
import torch
from torch.utils.data import Subset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from roster.errors import RosterError
from roster.library import Card, digest, fingerprint, read_adapter, write_adapter
from roster.library.config import CONFIG
from roster.library.reading import WEIGHTS
from roster.prompts import Rendering
from roster.routed.base import finding, load_base, load_tokenizer
from roster.train.data import Encoded, Row, collate, digest_of
from roster.train.plan import scratch_folder
from roster.train.progress import Told
from roster.train.trainer import last_checkpoint

EXAMPLES = 20
"""Prompts that go onto the card."""
_FEWEST = 10
"""Rows from which on some are held out."""
_WARM_UP = 0.05


@dataclass(frozen=True)
class Lesson:
    """How an expert is trained.

    Attributes:
        rank, alpha: of the update, which is scaled by alpha / rank.
        targets: names of the layers that get one, or "all-linear".
        epochs: times that the rows are read, at most.
        batch_size: rows per step.
        learning_rate: peak of a cosine schedule.
        held_out: share of the rows that are not learned but decide when to stop.
        patience: looks at them without improvement before training stops.
        looks: at them, per epoch.
        seed: of the split, of the order of the rows and of the adapter's start.
    """

    rank: int = 16
    alpha: int = 32
    targets: str | tuple[str, ...] = "all-linear"
    epochs: int = 3
    batch_size: int = 8
    learning_rate: float = 1e-3
    held_out: float = 0.1
    patience: int = 3
    looks: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "epochs", "batch_size", "patience", "looks"):
            if getattr(self, name) < 1:
                raise RosterError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise RosterError(f"learning_rate must be above 0, not {self.learning_rate}")
        if not 0 <= self.held_out < 1:
            raise RosterError(f"held_out is a share of the rows, from 0 to below 1, not {self.held_out}")


def train_expert(
    base: str | Path,
    rows: Sequence[Row],
    out: str | Path,
    *,
    lesson: Lesson = Lesson(),
    card: Card | None = None,
    template: bool = True,
    **kwargs: Any,
) -> dict[str, Any]:
    """Trains an adapter and writes it with its card.

    Args:
        base: a folder, a name on the hub, or "pocket".
        rows: prompts or chats, with answers.
        out: the adapter's folder, whose name is the expert's; an interrupted training leaves `OUT.training`, from which
            the same call goes on to the same bits.
        lesson: how.
        card: task and description; examples, base and hashes are filled in. By default the task is the folder's name.
        template: False learns from texts as they stand.
        kwargs: for the base's `from_pretrained`; dtype="bfloat16" halves the memory, the adapter is learned in float32.

    Returns:
        A record: lesson, steps, rows learned and held out, the best held-out loss.

    Raises:
        RosterError: rows without answers or too long for the model, a folder that is in use; before any work.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and any(out.iterdir()) and not (out / CONFIG).exists():
        raise RosterError(f"{str(out)!r} is not empty and not an adapter; choose another folder")
    tokenizer = load_tokenizer(base, **finding(kwargs))
    if tokenizer is None:
        raise RosterError(f"there is no tokenizer beside {str(base)!r}, which training needs")
    rendering = Rendering(tokenizer, template)
    model, name = load_base(base, **kwargs)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    data, (learned, held) = Encoded(rows, rendering, limit), split(len(rows), lesson)
    base_hash = digest(fingerprint(model))
    examples = [rows[at].asked for at in learned[:: max(1, len(learned) // EXAMPLES)][:EXAMPLES]]
    about = {"examples": examples, "base": name, "base_hash": base_hash, "template": rendering.digest}
    card = (card or Card(task=out.name)).model_copy(update=about)
    plan = {"base": base_hash, "data": digest_of(rows), "chat template": rendering.digest, "lesson": asdict(lesson)}
    with scratch_folder(out.with_name(out.name + ".training"), plan) as scratch:
        adapted = adapt(model, lesson)
        record = _fit(adapted, Subset(data, learned), Subset(data, held), rendering.pad_token_id, scratch, lesson)
        _write(adapted, out, card, scratch / "adapter")
    return {"lesson": asdict(lesson), "learned": len(learned), "held_out": len(held), **record}


def split(count: int, lesson: Lesson) -> tuple[list[int], list[int]]:
    """Places of (rows to learn, rows held out), by the lesson's seed; of fewer than 10 rows none is held out."""
    order = list(range(count))
    Random(lesson.seed).shuffle(order)
    few = count < _FEWEST or not lesson.held_out
    kept = 0 if few else min(count - 1, max(1, round(lesson.held_out * count)))
    return sorted(order[kept:]), sorted(order[:kept])


def adapt(model: Any, lesson: Lesson) -> Any:
    """The base with a fresh adapter, whose start depends on the seed alone."""
    torch.manual_seed(lesson.seed)
    targets = lesson.targets if isinstance(lesson.targets, str) else list(lesson.targets)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=lesson.rank, lora_alpha=lesson.alpha, target_modules=targets)
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:
        raise RosterError(f"the adapter's targets do not fit this base: {str(error).splitlines()[0]}") from None


def _fit(
    adapted: Any, learned: Subset[Any], held: Subset[Any], pad: int, folder: Path, lesson: Lesson
) -> dict[str, Any]:
    per_epoch = -(-len(learned) // lesson.batch_size)
    every = max(1, per_epoch // lesson.looks)
    stop = [EarlyStoppingCallback(lesson.patience)] if len(held) else []
    trainer = Trainer(
        model=adapted,
        args=_arguments(folder, lesson, per_epoch * lesson.epochs, every, len(held) > 0),
        train_dataset=learned,
        eval_dataset=held if len(held) else None,
        data_collator=partial(collate, pad=pad),
        callbacks=[Told(), *stop],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(folder, WEIGHTS)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    best = trainer.state.best_metric
    return {"steps": trainer.state.global_step, "best_held_out_loss": None if best is None else round(best, 4)}


def _arguments(folder: Path, lesson: Lesson, steps: int, every: int, held: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=lesson.batch_size,
        per_device_eval_batch_size=lesson.batch_size,
        learning_rate=lesson.learning_rate,
        warmup_steps=max(1, round(_WARM_UP * steps)),
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        logging_steps=max(1, steps // 10),
        eval_strategy="steps" if held else "no",
        eval_steps=every,
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=held,
        restore_callback_states_from_checkpoint=held,  # the patience that is used up, too
        metric_for_best_model="eval_loss" if held else None,
        seed=lesson.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
    )


def _write(adapted: Any, out: Path, card: Card, scratch: Path) -> None:
    """Writes the adapter as the library does, without the path of the base that PEFT puts into its config."""
    adapted.save_pretrained(scratch, save_embedding_layers=False)
    made = read_adapter(scratch)
    config = dataclasses.replace(made.config, base_model_name_or_path=card.base or "")
    write_adapter(out.parent, dataclasses.replace(made, name=out.name, card=card, config=config), overwrite=True)
