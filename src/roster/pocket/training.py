"""Training on question-answer pairs with transformers' ``Trainer``, on one CPU thread, with a progress bar.

The loss counts the answer and the end of the sequence, never the prompt. Batches are made beforehand: pairs of like
length share one, for less padding.

Legend: B pairs in a batch, S tokens of the longest.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

Pair = tuple[str, str]
"""A prompt and its answer."""
WINDOW = 4
"""So many batches' pairs are sorted by length together."""
LOG_EVERY = 20
"""Steps between two recorded losses."""
IGNORED = -100
"""The label of tokens that the loss leaves out."""


def collate(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Token ids, mask and labels ``[B, S]``, padded on the right; labels only on answers and ends."""
    rows = []
    for prompt, answer in pairs:
        asked = tokenizer(prompt)["input_ids"]
        told = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows.append((asked, told))
    longest = max(len(asked) + len(told) for asked, told in rows)
    ids_BS = torch.full((len(rows), longest), tokenizer.pad_token_id)
    mask_BS = torch.zeros_like(ids_BS)
    labels_BS = torch.full_like(ids_BS, IGNORED)
    for at, (asked, told) in enumerate(rows):
        end = len(asked) + len(told)
        ids_BS[at, :end] = torch.tensor(asked + told)
        mask_BS[at, :end] = 1
        labels_BS[at, len(asked) : end] = torch.tensor(told)
    return {"input_ids": ids_BS, "attention_mask": mask_BS, "labels": labels_BS}


class Batches(Dataset[Any]):
    """Ready batches as the items of a data set, so that ``Trainer`` takes one per step."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair], batch: int, rng: Random) -> None:
        self.items: list[dict[str, Tensor]] = []
        size = batch * WINDOW
        for start in range(0, len(pairs), size):
            window = sorted(pairs[start : start + size], key=lambda pair: len(pair[0]) + len(pair[1]))
            chunks = [window[at : at + batch] for at in range(0, len(window), batch)]
            rng.shuffle(chunks)
            self.items.extend(collate(tokenizer, chunk) for chunk in chunks)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.items[index]


class _InOrder(Trainer):
    """Takes the batches in their order: a curriculum has one, and random examples need no second shuffle."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
        return SequentialSampler(cast(Batches, train_dataset or self.train_dataset))


Tick = Callable[[float | None], None]
"""Called once per step, with the mean loss of the last steps whenever there is one."""


class _Report(TrainerCallback):
    """Calls ``tick`` after every step."""

    def __init__(self, tick: Tick) -> None:
        self.tick = tick

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step is done."""
        losses = [entry["loss"] for entry in state.log_history[-1:] if "loss" in entry]
        self.tick(losses[0] if losses else None)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Pair],
    learning_rate: float,
    seed: int,
    batch: int,
    tick: Tick = lambda loss: None,
) -> dict[str, Any]:
    """Train ``model`` in place, one pass over ``pairs``.

    Args:
        model: whatever of it requires gradients is trained.
        pairs: prompts and answers; every ``batch`` of them are one step, in the order given.
        learning_rate: peak; a short warm-up precedes it, a cosine to zero follows.
        seed: of the order within a few batches, and of whatever else is random.
        batch: pairs per step.
        tick: called after each step.

    Returns:
        ``steps``, ``examples``, ``seconds`` and ``losses``, the latter as ``[step, mean nats per token]`` pairs.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    batches = Batches(tokenizer, pairs, batch, Random(seed))
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=1,
            max_steps=len(batches),
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, len(batches) // 20),
            adam_beta2=0.99,
            weight_decay=0.01,
            logging_steps=LOG_EVERY,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=True,  # the matrix products only: a third less time where the processor has them
            dataloader_pin_memory=False,
            seed=seed,
        )
        trainer = _InOrder(
            model=model,
            args=settings,
            train_dataset=batches,
            data_collator=lambda items: items[0],
            callbacks=[_Report(tick)],
        )
        trainer.remove_callback(PrinterCallback)
        begun = time.perf_counter()
        trainer.train()
    model.eval()
    losses = [[entry["step"], round(entry["loss"], 4)] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "steps": len(batches),
        "examples": len(pairs),
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
        "seconds": round(time.perf_counter() - begun, 1),
        "losses": losses,
    }
