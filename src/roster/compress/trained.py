"""The methods that train: files in, a folder out. They hold models in memory, whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from roster.compress import distilling, unlearning
from roster.compress.mixture import open_mixture
from roster.errors import RosterError
from roster.options import check_options
from roster.prompts import Rendering
from roster.saving import writing
from roster.weights import run
from roster.weights.texts import LENGTH, ROWS, digest, read_texts

Progress = Callable[[int, int], None]


def forget(
    folder: str | Path,
    out: str | Path,
    data: str | Path,
    retain: str | Path,
    *,
    rows: int = ROWS,
    length: int = LENGTH,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> unlearning.Target:
    """`uoe-unlearning`, from a folder to a folder.

    Args:
        folder: of the mixture, or its hub name.
        out: where to.
        data: JSONL of what to forget.
        retain: JSONL of what to keep.
        rows: of each file at most.
        length: tokens of a row at most.
        overwrite: whether a folder that is there is replaced.
        progress: told of layers attributed, and of how many there are.
        options: see `roster.compress.unlearning.Settings`.

    Returns:
        The expert that forgot.
    """
    from transformers import AutoModelForCausalLM

    check_options("uoe-unlearning", unlearning.Settings, options)
    settings = unlearning.Settings(**options)
    mixture = open_mixture(folder)
    away, keep = (read_texts(each, mixture.source.folder, rows, length) for each in (data, retain))
    target = unlearning.attribute(mixture, away, progress)
    model: Any = AutoModelForCausalLM.from_pretrained(str(mixture.source.folder), dtype=torch.float32)
    told = unlearning.unlearn(model, target, away, keep, settings)
    report = {
        "affinity": {layer: [round(x, 6) for x in each] for layer, each in target.affinity_LE.items()},
        "settings": vars(settings),
        "texts": {"forget": digest(away), "retain": digest(keep)},
        "loss": {"first": told[0], "last": told[-1]},
    }
    run(unlearning.plan_unlearned(mixture, model, target, report), out, overwrite=overwrite)
    return target


def distil(
    folder: str | Path,
    out: str | Path,
    student: str | Path,
    data: str | Path | None = None,
    *,
    rows: int = ROWS,
    length: int = LENGTH,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> list[float]:
    """`moe-kd-ka-sar`: a mixture and a dense student in, the student's folder out.

    Args:
        folder: of the teacher, or its hub name.
        out: where to.
        student: folder or hub name of a causal model with the same words.
        data: JSONL of prompts; None for Python's documentation, whose first tokens are prompts.
        rows: of the data at most.
        length: tokens of a prompt at most.
        overwrite: whether a folder that is there is replaced.
        progress: told of steps done.
        options: see `roster.compress.distilling.Settings`.

    Returns:
        Reverse KL per token at every step.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_options("moe-kd-ka-sar", distilling.Settings, options)
    settings = distilling.Settings(**options)
    if Path(out).exists() and not overwrite:
        raise RosterError(f"{str(out)!r} is there already; choose another folder, or give --overwrite")
    teacher_at = open_mixture(folder).source.folder
    texts = read_texts(data, teacher_at, rows, length)
    prompts = [row[mask.bool()].tolist() for row, mask in zip(texts.ids_BS, texts.mask_BS, strict=True)]
    teacher, learner = (
        AutoModelForCausalLM.from_pretrained(str(each), dtype=torch.float32) for each in (teacher_at, student)
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(str(teacher_at))
    told = distilling.distil(teacher, learner, prompts, settings, Rendering.of(tokenizer).pad_token_id, progress)
    with writing(out) as new:
        learner.save_pretrained(new)
        tokenizer.save_pretrained(new)
    return told
