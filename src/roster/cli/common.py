"""What several commands share: the alias for the pocket models, quiet libraries, options given as key=value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roster.errors import RosterError


def experts_folder(name: str) -> Path:
    """A library's folder; "pocket" is the one that comes with roster."""
    if name == "pocket" and not Path(name).exists():
        from roster import pocket

        return pocket.experts_path()
    return Path(name)


def quiet() -> None:
    """Keeps transformers from talking between our lines."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`["top_k=2", "experts=vectors"]` -> `{"top_k": 2, "experts": "vectors"}`; values are JSON where they can be."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise RosterError(f"--option takes name=value, not {pair!r}")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options


def open_mixture(folder: str) -> Any:
    """A saved mixture, ready to answer; its tokenizer is `model.roster.tokenizer`."""
    from roster.mixture.folder import load, read_manifest

    read_manifest(Path(folder))
    quiet()
    model = load(Path(folder)).eval()
    if model.roster.tokenizer is None:
        raise RosterError(f"there is no tokenizer for the base of {folder!r}")
    return model


def check_prompt(model: Any, prompt: str, new_tokens: int) -> None:
    """RosterError when a prompt is empty or leaves no room for an answer."""
    from roster.arena.evaluate import check_lengths

    check_lengths(model, model.roster.tokenizer, [prompt], new_tokens)


def check_task(model: Any, task: str | None) -> list[str | None] | None:
    """The `tasks=` of a one-row call; RosterError when a task is missing, unknown, or of no use."""
    if model.roster.mixing.tasks is None:
        if task is not None:
            raise RosterError(f"recipe {model.roster.recipe!r} does not route by task; leave --task out")
        return None
    if task is not None:
        model.task_ids([task])
    return [task]
