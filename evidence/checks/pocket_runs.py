"""Training runs on the pocket base that several checks share: a few held-in skills at once, scored by the loss of their
answers on test prompts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from roster.pocket.contents import digest
from roster.pocket.experts import training_pairs
from roster.pocket.skills import examples
from roster.train.data import Encoded, Row, collate
from roster.train.fit import Settings, fit

SKILLS = ("reverse", "shift", "upper", "twice", "vowels", "sort")
TARGETS = r".*_proj"
STEPS, BATCH = 100, 32


def training_rows(skills: Sequence[str], seed: int, steps: int = STEPS) -> list[Row]:
    """Enough rows for one run, skills in turn."""
    share = steps * BATCH // len(skills) + 1
    drawn = {skill: training_pairs(skill, share, Random(digest(f"check/{seed}/{skill}"))) for skill in skills}
    return [Row(prompt=p, answer=a, task=skill) for skill in skills for p, a in drawn[skill]]


def learn(model: Any, tokenizer: Any, rows: Sequence[Row], seed: int, rate: float, steps: int = STEPS) -> None:
    """Trains a routed model's own parts."""
    settings = Settings(steps=steps, batch_size=BATCH, learning_rate=rate, seed=seed, save_every=steps, progress=False)
    with tempfile.TemporaryDirectory() as scratch:
        fit(model, rows, tokenizer, Path(scratch), settings)


def finetune(model: Any, tokenizer: Any, rows: Sequence[Row], seed: int, rate: float) -> None:
    """Trains all weights of a plain model on the same rows: the yardstick of adapters."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                scratch,
                max_steps=STEPS,
                per_device_train_batch_size=BATCH,
                learning_rate=rate,
                warmup_steps=STEPS // 10,
                weight_decay=0.0,
                seed=seed,
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=False,
                save_strategy="no",
                disable_tqdm=True,
                report_to=[],
            ),
            train_dataset=Encoded(rows, tokenizer, None),
            data_collator=partial(collate, pad=tokenizer.pad_token_id),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()


@torch.no_grad()
def answer_loss(model: Any, tokenizer: Any, skills: Sequence[str], count: int = 40) -> float:
    """Mean loss per answer token, in nats, over test prompts."""
    asked = [each for skill in skills for each in examples(skill, "test", count)]
    rows = [Row(prompt=each.prompt, answer=each.answer, task=each.skill) for each in asked]
    tasks = None
    if hasattr(model, "roster") and model.roster.plan.routes_by_task:
        tasks = {name: index for index, name in enumerate(model.roster.tasks)}
    data = Encoded(rows, tokenizer, None, tasks)
    loss = tokens = 0.0
    for start in range(0, len(data), 64):
        batch = collate([data[at] for at in range(start, min(start + 64, len(data)))], tokenizer.pad_token_id)
        labelled = int((batch["labels"] != -100).sum())
        loss += float(model(**batch).loss) * labelled
        tokens += labelled
    return loss / tokens
