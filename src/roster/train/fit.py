"""Fitting what a recipe trains on rows of data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from roster.errors import RosterError
from roster.prompts import Rendering
from roster.saving import MANIFEST
from roster.train.data import Encoded, Row, collate
from roster.train.progress import Told
from roster.train.spread import SpreadTrainer, is_sharded
from roster.train.trainer import Advance, RoutedTrainer, last_checkpoint


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        steps: optimiser steps.
        batch_size: rows per step, of all processes together.
        learning_rate: peak of a linear schedule with a tenth of warm-up.
        seed: of the order of the rows, and of what the recipe draws.
        save_every: steps between checkpoints.
        progress: whether to tell on standard error how far it is.
    """

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 3e-3
    seed: int = 0
    save_every: int = 100
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise RosterError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise RosterError(f"learning_rate must be above 0, not {self.learning_rate}")


def fit(
    model: Any, rows: Sequence[Row], tokenizer: Any, folder: Path, settings: Settings = Settings()
) -> dict[str, Any]:
    """Trains what the recipe says is trained; the base stays as it is.

    Args:
        model: a routed model.
        rows: the data; recipes that route by task read each row's task.
        tokenizer: of the base, or a `Rendering` of it.
        folder: for checkpoints; a run that was cut off there is taken up where it stopped.
        settings: steps, batch, rate, seed.

    Returns:
        A record: settings, losses by step, seconds.
    """
    mixture = model.roster
    if not mixture.plan.trains:
        raise RosterError(f"recipe {mixture.recipe!r} has nothing to train")
    task_ids = None
    if mixture.plan.routes_by_task:
        task_ids = {name: index for index, name in enumerate(mixture.tasks)}
        if not any(row.task in task_ids for row in rows):
            raise RosterError(
                f"recipe {mixture.recipe!r} learns by task, but no row of the data names one of {list(task_ids)}"
            )
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    rendering = Rendering.of(tokenizer)
    return learn(model, Encoded(rows, rendering, limit, task_ids), rendering.pad_token_id, folder, settings)


def learn(
    model: Any,
    data: Any,
    pad: int,
    folder: Path,
    settings: Settings,
    trainer: type[Trainer] | None = None,
    weights: str = MANIFEST,
) -> dict[str, Any]:
    """Trains on what is encoded already; see `fit`.

    Args:
        model: what has a gradient is trained.
        data: a dataset of `input_ids` and `labels`.
        pad: what fills up rows.
        folder: for checkpoints.
        settings: steps, batch, rate, seed.
        trainer: what writes the checkpoints; by default that of routed models.
        weights: the file that it writes of the model.
    """
    kind = trainer or (SpreadTrainer if is_sharded(model) else RoutedTrainer)
    made = kind(
        model=model,
        args=_arguments(folder, settings, is_sharded(model)),
        train_dataset=data,
        data_collator=partial(collate, pad=pad),
        callbacks=[Advance(), *([Told()] if settings.progress else [])],
    )
    made.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(folder, weights)
    start = time.monotonic()
    was_training = model.training
    try:
        made.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        model.train(was_training)
    losses = {entry["step"]: round(entry["loss"], 4) for entry in made.state.log_history if "loss" in entry}
    return {"settings": asdict(settings), "losses": losses, "seconds": round(time.monotonic() - start, 1)}


def per_process(batch_size: int) -> int:
    """The rows of one step that each process of a run takes; RosterError where they do not divide."""
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    if batch_size % processes:
        raise RosterError(f"a batch of {batch_size} rows does not divide among {processes} processes")
    return batch_size // processes


def _arguments(folder: Path, settings: Settings, sharded: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=per_process(settings.batch_size),
        learning_rate=settings.learning_rate,
        warmup_steps=max(1, settings.steps // 10),
        lr_scheduler_type="linear",
        weight_decay=0.0,
        logging_steps=max(1, settings.steps // 10),
        save_steps=settings.save_every,
        save_total_limit=2,
        save_only_model=sharded,  # what Trainer would keep beside it is pickled, and of one process
        seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        remove_unused_columns=False,
        report_to=[],
    )
