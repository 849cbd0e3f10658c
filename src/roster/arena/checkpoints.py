"""Plain checkpoints side by side on rows of one JSONL file: perplexity, multiple choice, generation, each apart.

A row has `text` (or `messages` without a last answer), all of which counts; or `prompt` (or `messages`) and `answer`,
of which the answer counts, and which is generated greedily and compared as a whole; or besides these `choices`, among
which the likeliest is taken instead. Models are loaded whole, one after the other, in float32.

Shape legend: S tokens of a row, V words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from roster.arena.evaluate import answers, wilson
from roster.errors import RosterError, nearest
from roster.files import numbered_lines, object_of
from roster.prompts import Prompt, Rendering
from roster.weights.source import open_checkpoint

FIELDS = ("text", "prompt", "messages", "answer", "choices")
Progress = Callable[[str, int, int], None]
"""Told of the model, how many of its rows are done, and how many there are."""


@dataclass(frozen=True)
class Item:
    """One row.

    Attributes:
        text: as it stands; None where there is a prompt.
        prompt: a text or a chat.
        answer: what should be said; None where the whole row counts.
        choices: among which the answer is.
    """

    text: str | None = None
    prompt: Prompt | None = None
    answer: str | None = None
    choices: tuple[str, ...] = ()


def read_items(path: str | Path) -> list[Item]:
    """The rows of a file.

    Raises:
        RosterError: no file, nothing in it, or a malformed line, with its number.
    """
    items = [_item(line, f"{path}, line {number}") for number, line in numbered_lines(Path(path)).items()]
    if not items:
        raise RosterError(f"{str(path)!r} holds no rows")
    return items


def compare(
    models: Mapping[str, str],
    items: Sequence[Item],
    data: str,
    *,
    max_new_tokens: int = 32,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Every model on every row.

    Args:
        models: folder, hub name or BASE+ADAPTER by the name that is shown.
        items: what is asked.
        data: what the file is called.
        max_new_tokens: where a generated answer is cut off.
        progress: see `Progress`.

    Returns:
        JSON-able: `data`, `rows`, `tokens` (of the first model's tokenizer), and by model `perplexity` and, where rows
        of that kind are there, `choice` and `generation` (accuracy, its 95 % Wilson interval, rows).

    Raises:
        RosterError: a model that is not there or has no tokenizer; a row that it cannot read.
    """
    told: dict[str, Any] = {"data": data, "rows": len(items), "models": {}}
    for name, place in models.items():
        model, tokenizer = _opened(place)
        said = (lambda done, name=name: progress(name, done, len(items))) if progress is not None else None
        found, tokens = measure(model, tokenizer, items, max_new_tokens, said)
        told.setdefault("tokens", tokens)
        told["models"][name] = found
        del model
    return told


@torch.inference_mode()
def measure(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    max_new_tokens: int = 32,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], int]:
    """One model: its figures, and how many tokens its perplexity is of."""
    rendering = Rendering.of(tokenizer)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
    nats, tokens, chosen = 0.0, 0, []
    for done, item in enumerate(items, 1):
        row, start = _row(item, rendering, item.answer)
        losses = _losses(model, row[:limit], start)
        nats, tokens = nats + sum(losses), tokens + len(losses)
        if item.choices:
            means = [_mean(_losses(model, *_row(item, rendering, each))) for each in item.choices]
            chosen.append(item.choices[min(range(len(means)), key=means.__getitem__)] == item.answer)
        if progress is not None:
            progress(done)
    if not tokens:
        raise RosterError("no row has a token that could be predicted")
    found: dict[str, Any] = {"perplexity": math.exp(nats / tokens)}
    if chosen:
        found["choice"] = _share(chosen)
    asked = [item for item in items if item.answer is not None and not item.choices]
    if asked:
        prompts = [item.prompt for item in asked if item.prompt is not None]
        said = answers(model, rendering, prompts, batch_size=8, max_new_tokens=max_new_tokens)
        right = [text.strip() == (item.answer or "").strip() for text, item in zip(said, asked, strict=True)]
        found["generation"] = _share(right)
    return found, tokens


def _share(right: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson(sum(right), len(right))
    return {"accuracy": sum(right) / len(right), "low": low, "high": high, "rows": len(right)}


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses) if losses else math.inf


def _row(item: Item, rendering: Rendering, answer: str | None) -> tuple[list[int], int]:
    """Its tokens, and the first that counts."""
    if item.prompt is None:
        return list(rendering.tokenizer(item.text)["input_ids"]), 1
    if answer is None:
        return rendering.ids(item.prompt), 1
    before, after = rendering.pair(item.prompt, answer)
    return before + after, max(len(before), 1)


def _losses(model: Any, row: Sequence[int], start: int) -> list[float]:
    """Nats of each token from `start` on."""
    if len(row) <= start:
        return []
    ids_S = torch.tensor(row, device=model.device)
    logits_SV = model(input_ids=ids_S[None], use_cache=False).logits[0]
    losses_S = torch.nn.functional.cross_entropy(logits_SV[start - 1 : -1].float(), ids_S[start:], reduction="none")
    return [float(each) for each in losses_S]


def _opened(place: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, _, adapter = (place, "", "") if Path(place).exists() else place.partition("+")
    folder = open_checkpoint(base).folder
    if not any(folder.glob("tokenizer*")):
        raise RosterError(f"{place!r} has no tokenizer, so that no text can be read with it")
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).eval()
    return model, AutoTokenizer.from_pretrained(str(folder))


def _item(line: str, where: str) -> Item:
    fields = object_of(line, where)
    for name in fields:
        if name not in FIELDS and name not in ("task", "group"):
            raise RosterError(f"{where}: unknown field {name!r}: {nearest(name, FIELDS)}")
    given = [name for name in FIELDS[:3] if fields.get(name)]
    if len(given) != 1:
        raise RosterError(f"{where}: give text, prompt or messages, one of them")
    answer, choices = fields.get("answer"), fields.get("choices") or []
    if given == ["messages"]:
        turns = fields["messages"]
        if not isinstance(turns, list) or not all(isinstance(each, dict) for each in turns):
            raise RosterError(f"{where}: messages must be a list of objects with role and content")
        if answer is None and turns[-1].get("role") == "assistant":
            turns, answer = turns[:-1], turns[-1].get("content")
        asked: Any = turns
    else:
        asked = fields[given[0]]
        if not isinstance(asked, str):
            raise RosterError(f"{where}: {given[0]} is a {type(asked).__name__}")
    if not isinstance(answer, str | None):
        raise RosterError(f"{where}: answer is a {type(answer).__name__}")
    if choices and (not isinstance(choices, list) or answer not in choices or len(choices) < 2):
        raise RosterError(f"{where}: choices must be a list of at least two texts, with the answer among them")
    if given == ["text"]:
        if answer is not None:
            raise RosterError(f"{where}: a text has no answer; call it a prompt")
        return Item(text=asked)
    return Item(prompt=asked, answer=answer, choices=tuple(choices))
