"""The texts that a merge learns from: read and counted before any work, and handed to the method's learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roster.errors import RosterError
from roster.merge.config import MergeConfig
from roster.merge.learned import Asked, Learned
from roster.merge.methods import find_method
from roster.merge.opening import folder_of, open_models
from roster.weights import Source
from roster.weights.texts import LENGTH, ROWS, Texts, read_texts

FEWEST = 8
"""Rows of texts that a model must have: fewer say nothing about it."""


@dataclass(frozen=True)
class Data:
    """The texts that a merge is given.

    Attributes:
        files: JSONL, one for all models or one for each (see `roster.weights.texts`).
        folder: where what is learned is kept; a run with the same models and texts takes it up.
        rows: of each file at most.
        length: tokens of a row at most.
    """

    files: Sequence[Path]
    folder: Path
    rows: int = ROWS
    length: int = LENGTH


def prepare(config: MergeConfig, data: Data | None) -> Learned | None:
    """What the method of a config will learn from data; None for a method that needs none.

    Raises:
        RosterError: data for a method that reads none, none for one that needs it, another number of files than of
            models, too few rows, a malformed line, a setting that is wrong.
    """
    method = find_method(config.method)
    if method.learner is None:
        if data is not None and data.files:
            raise RosterError(f"method {method.slug!r} learns nothing from data: leave out --data")
        return None
    if data is None or not data.files:
        raise RosterError(
            f"method {method.slug!r} learns from data: give --data FILE.jsonl, one for all models or one for each"
        )
    settings = {}
    for name, setting in method.learning.items():
        given = config.parameters.get(name, setting.default)
        settings[name] = setting.check(given)
    opened = open_models(config.models)
    merged = [each.model for part in config.slices for each in part.members]
    merged += [config.base_model] if method.base == "member" and config.base_model is not None else []
    names = [name for name in dict.fromkeys(merged) if method.base == "member" or name != config.base_model]
    method.check_count(len(names), config.base_model is not None)
    learner = method.learner(**settings)
    readers = [opened[name] for name in names or [config.base_model or ""]]
    texts = _texts(data, readers, learner.per_model)
    base = opened[config.base_model] if config.base_model is not None and method.base != "member" else None
    whole = all(member.layers is None for part in config.slices for member in part.members)
    found: Learned = learner.begin(Asked({n: opened[n] for n in names}, texts, base, data.folder, whole))
    return found


def _texts(data: Data, models: Sequence[Source], per_model: bool) -> list[Texts]:
    if per_model and len(data.files) not in (1, len(models)):
        raise RosterError(
            f"--data is given {len(data.files)} times for {len(models)} models: give one for all, or one for each, in "
            "their order"
        )
    readers = list(models) if per_model else [models[0]] * len(data.files)
    found = [_read(data, file, reader) for file, reader in zip(data.files, readers, strict=False)]
    return found * len(models) if per_model and len(found) == 1 else found


def _read(data: Data, file: Path, model: Source) -> Texts:
    folder = folder_of(model)
    if folder is None:
        raise RosterError(f"{model.name!r} has no folder with a tokenizer, so that no text can be read with it")
    texts = read_texts(file, folder, data.rows, data.length)
    if len(texts.ids_BS) < FEWEST:
        raise RosterError(
            f"{str(file)!r} gives {len(texts.ids_BS)} rows (--rows {data.rows}); {FEWEST} at least are needed to learn "
            "anything"
        )
    return texts
