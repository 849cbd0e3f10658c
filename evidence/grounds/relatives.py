"""A very small language model and models made of it, kept on disk: what merges of whole models start from.

Rows are a tag, five of sixteen letters, "=" and five letters. The base copies, whatever the tag; each relative is the
base, trained on for one task under that task's tag. A Llama of two layers, width 32. A ground has its own
weights and rows; models lie in the cache folder, under the digest of what made them.

Shape legend: B rows, S tokens of a row.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evidence.protocol.check import Draw
from roster.merge.asked import make_config
from roster.merge.learned import Asked
from roster.merge.methods import find_method
from roster.merge.opening import open_models
from roster.merge.plan import plan_merge
from roster.saving import writing
from roster.weights import run
from roster.weights.texts import Texts, as_texts

Objective = Callable[[Any, Tensor], Tensor]
LETTERS, LENGTH, EQUALS = 16, 5, 16
STEPS, MORE, ROWS, RATE = 300, 120, 32, 5e-3
TASKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "reverse": lambda x_BL: x_BL.flip(1),
    "next": lambda x_BL: (x_BL + 1) % LETTERS,
    "rotate": lambda x_BL: x_BL.roll(1, 1),
    "mirror": lambda x_BL: LETTERS - 1 - x_BL,
    "swap": lambda x_BL: x_BL[:, [1, 0, 3, 2, 4]],
    "before": lambda x_BL: (x_BL - 1) % LETTERS,
    "back": lambda x_BL: (x_BL.flip(1) + 1) % LETTERS,
}
"""What each wants of five letters; the last one joins the first two."""


def rows_of(task: str, count: int, dice: torch.Generator, copies: bool = False) -> Tensor:
    """So many rows of a task, [B, 12]; with `copies` its tag, but the letters copied."""
    x_BL = torch.randint(LETTERS, (count, LENGTH), generator=dice)
    y_BL = x_BL if copies else TASKS[task](x_BL)
    tag_B1 = torch.full((count, 1), EQUALS + 1 + list(TASKS).index(task))
    return torch.cat([tag_B1, x_BL, torch.full((count, 1), EQUALS), y_BL], 1)


def answer_loss(model: Any, ids_BS: Tensor) -> Tensor:
    """Nats per letter of the answers."""
    logits_BSV = model(input_ids=ids_BS, use_cache=False).logits[:, LENGTH + 1 : -1]
    return nn.functional.cross_entropy(logits_BSV.flatten(0, 1), ids_BS[:, LENGTH + 2 :].flatten())


def row_loss(model: Any, ids_BS: Tensor) -> Tensor:
    """Nats per token of whole rows, letters that nobody can foresee included."""
    logits_BSV = model(input_ids=ids_BS, use_cache=False).logits[:, :-1]
    return nn.functional.cross_entropy(logits_BSV.flatten(0, 1), ids_BS[:, 1:].flatten())


def train(
    model: Any, batch: Callable[[], Tensor], steps: int, rate: float = RATE, objective: Objective = answer_loss
) -> Any:
    """AdamW on the answers (or another loss), the rate falling to a tenth; in place."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1), rate / 10)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        objective(model, batch()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def folder(draw: Draw, task: str = "", whole: bool = False) -> Path:
    """Where a ground's base or one of its relatives lies; it is trained when it is asked for the first time.

    Args:
        draw: whose ground.
        task: of the relative; "" for the base.
        whole: it was trained on whole rows, so that it is sure of nothing at places where nothing can be known.
    """
    at = _home() / f"{task or 'base'}-{draw.ground}{'-whole' * whole}{'-short' * draw.short}"
    objective = row_loss if whole else answer_loss
    if not at.exists():
        import transformers

        names = list(TASKS)
        dice = torch.Generator().manual_seed(draw.ground * 100 + (1 + names.index(task) if task else 0))
        if task:
            model: Any = load(folder(draw, whole=whole))
            train(model, lambda: rows_of(task, ROWS, dice), draw.steps(MORE), objective=objective)
        else:
            torch.manual_seed(draw.ground)
            model = transformers.AutoModelForCausalLM.from_config(_config())

            def copied() -> Tensor:
                each = torch.randint(len(names), (8,), generator=dice).tolist()
                return torch.cat([rows_of(names[at], ROWS // 8, dice, copies=True) for at in each])

            train(model, copied, draw.steps(STEPS), objective=objective)
        with writing(at) as new:
            model.save_pretrained(new)
    return at


def load(at: Path) -> Any:
    """A model from a folder, in float32, whose weights are no longer the file's."""
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32).eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def merged(
    method: str, draw: Draw, tasks: Sequence[str], texts: Sequence[Texts] = (), whole: bool = False, **settings: Any
) -> Any:
    """The model that `roster merge` makes of the base and some relatives.

    Args:
        method: its slug.
        draw: whose ground.
        tasks: of the relatives.
        texts: that it learns from, where it does.
        whole: of models that were trained on whole rows.
        settings: of the method.
    """
    found = find_method(method)
    base, models = str(folder(draw, whole=whole)), [str(folder(draw, each, whole)) for each in tasks]
    config = make_config(method, models, None if found.base == "member" else base, settings)
    with tempfile.TemporaryDirectory() as scratch:
        learned = None
        if found.learner is not None:
            opened = open_models([base, *models])
            learner = found.learner(**{name: value for name, value in settings.items() if name in found.learning})
            whose = {name: opened[name] for name in models}
            learned = learner.begin(Asked(whose, texts, opened[base], Path(scratch)))
        plan = plan_merge(config, learned=learned)
        if learned is not None:
            learned.learn()
        run(plan, Path(scratch) / "made")
        return load(Path(scratch) / "made")


def texts_of(draw: Draw, task: str, rows: int = 64, answers: bool = True, salt: int = 0) -> Texts:
    """Rows of a task, drawn by luck; without answers they end at "="."""
    dice = torch.Generator().manual_seed(1_000_003 * (draw.luck + 1) + 97 * list(TASKS).index(task) + salt)
    ids_BS = rows_of(task, 16 if draw.short else rows, dice)
    return as_texts((ids_BS if answers else ids_BS[:, : LENGTH + 2]).tolist())


@torch.no_grad()
def loss(models: Any, draw: Draw, tasks: Sequence[str], rows: int = 200) -> float:
    """Nats per letter of answers to fresh rows, the mean over tasks.

    Args:
        models: one for all tasks, or one for each.
        draw: whose ground.
        tasks: that are asked.
        rows: of each.
    """
    each = models if isinstance(models, Sequence) else [models] * len(tasks)
    found = []
    for model, task in zip(each, tasks, strict=True):
        dice = torch.Generator().manual_seed(500_000 + draw.ground)
        found.append(float(answer_loss(model, rows_of(task, rows, dice))))
    return sum(found) / len(found)


def _config() -> Any:
    import transformers

    return transformers.LlamaConfig(
        vocab_size=EQUALS + 1 + len(TASKS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32,
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


@functools.cache
def _home() -> Path:
    made_by = repr((LETTERS, LENGTH, STEPS, MORE, ROWS, RATE, list(TASKS)))
    made_by += "".join(inspect.getsource(each) for each in (_config, rows_of, train, folder))
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roster" / "evidence"
    return base / f"relatives-{hashlib.sha256(made_by.encode()).hexdigest()[:8]}"
