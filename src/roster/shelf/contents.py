"""What one adapter's headers and card tell, without its weights: for lists, searches and the index.

Whether its values are sound, and whether they fit a base, only reading it can tell (`roster.library.read_adapter`).
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roster.entries import read_entries
from roster.errors import RosterError
from roster.files import read_object
from roster.prompts import words
from roster.shelf.card import CARD, Card
from roster.shelf.folders import CONFIG, WEIGHTS

_VECTOR = re.compile(r"\.ia3_l$")
_FACTOR = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_A(?:\.weight)?$")


@dataclass(frozen=True)
class Contents:
    """One adapter, as far as it can be known without its values.

    Attributes:
        name: of its folder.
        kind: "LORA", "DORA", "ADALORA", "IA3", or what else its config calls it.
        task, description, template: of its card.
        examples: how many its card has.
        base: the name of its base.
        base_hash, weights_hash: as its card has them; "" where it does not.
        ranks, scales: of its updates, without repetition; scales are empty for kinds other than LoRA and DoRA.
        modules: how many linear layers it updates.
        parameters, nbytes: of its tensors.
        dtypes: of its tensors, as the file calls them.
        words: all that its card says.
        problem: why it cannot be used; "" where nothing is known against it.
    """

    name: str
    kind: str = ""
    task: str = ""
    description: str = ""
    template: str = ""
    examples: int = 0
    base: str = ""
    base_hash: str = ""
    weights_hash: str = ""
    ranks: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    modules: int = 0
    parameters: int = 0
    nbytes: int = 0
    dtypes: tuple[str, ...] = ()
    words: str = ""
    problem: str = ""


def read_contents(path: Path, name: str) -> Contents:
    """Looks at one adapter; what is wrong with it is told in `problem`, so that the others of its folder are seen."""
    try:
        card = Card.read(path)
        config = read_object(path / CONFIG)
        entries, _ = read_entries(path / WEIGHTS)
        ranks = {
            m["module"]: each.shape[0] for key, each in entries.items() if each.shape and (m := _FACTOR.match(key))
        }
        kind = str(config.get("peft_type", ""))
        scales = {_scale(config, module, rank, path) for module, rank in ranks.items()} if kind == "LORA" else set()
    except RosterError as error:
        return Contents(name, problem=str(error))
    return Contents(
        name=name,
        kind="DORA" if kind == "LORA" and config.get("use_dora") else kind,
        task=card.task,
        description=card.description,
        template=card.template or "",
        examples=len(card.examples),
        base=str(config.get("base_model_name_or_path") or card.base or ""),
        base_hash=card.base_hash or "",
        weights_hash=card.weights_hash or "",
        ranks=tuple(sorted(set(ranks.values()))),
        scales=tuple(sorted(scales)),
        modules=len(ranks) or sum(1 for key in entries if _VECTOR.search(key)),
        parameters=sum(each.numel for each in entries.values()),
        nbytes=sum(each.nbytes for each in entries.values()),
        dtypes=tuple(sorted({each.code for each in entries.values()})),
        words=said(card),
        problem="" if entries else f"{str(path / WEIGHTS)!r} holds no tensors: this adapter changes nothing",
    )


def said(card: Card) -> str:
    """All that a card says, as one text."""
    return " ".join([card.task, card.description, *map(words, card.examples)])


def stamp(path: Path) -> str:
    """Changes whenever one of the files does that `read_contents` reads."""
    marks = []
    for name in (CONFIG, WEIGHTS, CARD):
        try:
            found = os.stat(path / name)
        except OSError:
            marks.append("-")
        else:
            marks.append(f"{found.st_mtime_ns}:{found.st_size}:{found.st_ino}")
    return " ".join(marks)


def check_one_base(shelf: list[Contents]) -> None:
    """RosterError where adapters of one folder belong to bases with different hashes or names."""
    for what, first_of in (("base_hash", "with the hash "), ("base", "")):
        known = [each for each in shelf if getattr(each, what)]
        for each in known:
            one, other = (getattr(found, what).rstrip("/") for found in (known[0], each))
            hashed = what == "base" and known[0].base_hash and each.base_hash
            if one != other and not hashed:
                raise RosterError(
                    f"adapters of different bases: {known[0].name!r} belongs to {first_of}{one[:64]!r}, "
                    f"{each.name!r} to {first_of}{other[:64]!r}"
                )


def _scale(config: dict[str, Any], module: str, rank: int, path: Path) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA, with the alpha of the first pattern that fits, as in PEFT."""
    patterns = config.get("alpha_pattern") or {}
    try:
        fits = (alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
        alpha = float(next(fits, config["lora_alpha"]))
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, re.error):
        raise RosterError(f"{str(path / CONFIG)!r} gives {module!r} no scale: run `roster experts check`") from None
