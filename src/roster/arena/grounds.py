"""Grounds of the arena: a base, a folder of adapters, what is asked, and what may be learnt from.

`pocket`, `smol` and `reasoning` draw their prompts anew for every seed; a folder of one's own is asked the same rows
each time. Rows name a task for the oracle; where the right expert is known by it, the group is among `own`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from roster import pocket, smol
from roster.arena.reasoning import GROUP, reasoning_rows
from roster.errors import RosterError
from roster.library import Library
from roster.pocket.skills import COMPOSED, HELD_IN, UNSEEN, examples
from roster.shelf.folders import CONFIG, adapter_folders
from roster.smol.base import base_path, is_ready
from roster.smol.comparison import NEW_TOKENS, as_rows
from roster.smol.groups import group, library
from roster.smol.skills import TRAINED, questions
from roster.train.data import Row, read_rows
from roster.train.fit import Settings

POCKET, SMOL, REASONING = "pocket", "smol", "reasoning"
_POCKET_ASKED, _POCKET_TAUGHT, _POCKET_TOKENS = 12, 60, 28
_SMOL_ASKED = {"known": 2.0, "unseen": 2.0, "nobody": 20.0, "switching": 8.0, "mixed": 1.0}
"""Prompts a skill at scale 1; prompts in all for nobody's, chats of three turns for switching."""
_SMOL_TAUGHT = 24
_REASONING_ASKED, _REASONING_TAUGHT = 20, 40


@dataclass(frozen=True)
class Ground:
    """Where methods are compared.

    Attributes:
        name: for a reader.
        base: a folder, a name on the hub, or "pocket".
        experts: a folder of adapters.
        rows: what is asked, by seed.
        lessons: what may be learnt from; empty where nothing is to be had.
        own: groups in which a row's task names the expert that is right.
        new_tokens: longest answer.
        settings: of trainings.
    """

    name: str
    base: str
    experts: Path
    rows: Mapping[int, Sequence[Row]]
    lessons: Sequence[Row]
    own: Sequence[str]
    new_tokens: int
    settings: Settings

    def of_size(self, count: int, folder: Path) -> Ground:
        """The same with so many adapters: the first ones, or all of them and noisy copies of them in turn.

        Args:
            count: how many; rows whose task has no adapter then are left out.
            folder: where the adapters are written, unless so many are there.
        """
        if len(list(folder.glob(f"*/{CONFIG}"))) != count:
            library(self.experts, folder, count, noise=0.1)
        tasks = {each.card.task for each in Library.read(folder).values()}

        def answerable(rows: Sequence[Row]) -> list[Row]:
            return [row for row in rows if row.task is None or row.task in tasks]

        rows = {seed: answerable(each) for seed, each in self.rows.items()}
        return replace(self, experts=folder, rows=rows, lessons=answerable(self.lessons))


def pocket_ground(seeds: Sequence[int], scale: float = 1.0) -> Ground:
    """The models that come with roster: held-in, unseen and composed skills; the oracle knows the first part of two."""
    groups, count = {"held-in": HELD_IN, "unseen": UNSEEN, "composed": COMPOSED}, _count(_POCKET_ASKED, scale)

    def rows(split: str, number: int, seed: int, skills: Mapping[str, Sequence[str]]) -> list[Row]:
        return [
            Row(prompt=each.prompt, answer=each.answer, task=each.parts[0] if each.parts else None, group=name)
            for name, members in skills.items()
            for skill in members
            for each in examples(skill, split, number, seed)
        ]

    return Ground(
        POCKET,
        "pocket",
        pocket.experts_path(),
        {seed: rows("test", count, seed, groups) for seed in seeds},
        rows("train", _POCKET_TAUGHT, 0, {"held-in": HELD_IN}),
        ("held-in",),
        _POCKET_TOKENS,
        Settings(steps=100, batch_size=32, learning_rate=1e-2, save_every=50, progress=False),
    )


def smol_ground(seeds: Sequence[int], scale: float = 1.0, experts: Path | None = None) -> Ground:
    """SmolLM2-135M-Instruct and adapters of real skills.

    Args:
        seeds: of the draws.
        scale: multiplies the number of prompts.
        experts: adapters whose cards name trained skills; by default those that come with roster.

    Raises:
        RosterError: the base is not in the cache, or the packages that skills are drawn from are missing.
    """
    if not is_ready():
        raise RosterError("the real base is not in the cache: run `roster smol prepare` once")
    experts = experts or smol.adapters_path()
    named = {each.card.task for each in Library.read(experts).values()}
    skills = [name for name in TRAINED if name in named]
    try:
        rows = {
            seed: as_rows(
                [
                    each
                    for name, count in _SMOL_ASKED.items()
                    for each in group(name, _count(count, scale), skills, seed)
                ]
            )
            for seed in seeds
        }
        taught = [each for name in skills for each in questions(name, "train", _SMOL_TAUGHT, seed=1)]
    except ModuleNotFoundError as error:
        raise RosterError(f"the skills need the package {error.name}: pip install 'roster-moe[smol]'") from None
    lessons = [
        Row.model_validate({"messages": each.messages, "answer": each.answer, "task": each.skill}) for each in taught
    ]
    settings = Settings(steps=40, batch_size=8, learning_rate=5e-3, save_every=20, progress=False)
    own = ("known", "unseen", "switching", "mixed")
    return Ground(SMOL, str(base_path()), experts, rows, lessons, own, NEW_TOKENS, settings)


def reasoning_ground(experts: Path, seeds: Sequence[int], scale: float = 1.0, base: str | None = None) -> Ground:
    """Adapters whose cards name tasks of reasoning-gym, on its prompts.

    Args:
        experts: a folder of adapters.
        seeds: of the draws.
        scale: multiplies the number of prompts.
        base: by default what the adapters call their base.

    Raises:
        RosterError: reasoning-gym is missing, or a card names none of its tasks.
    """
    tasks = list(dict.fromkeys(each.card.task for each in Library.read(experts).values() if each.card.task))
    rows = {seed: reasoning_rows(tasks, "test", _count(_REASONING_ASKED, scale), seed) for seed in seeds}
    lessons = reasoning_rows(tasks, "train", _REASONING_TAUGHT)
    settings = Settings(steps=100, batch_size=16, learning_rate=5e-3, save_every=50, progress=False)
    return Ground(REASONING, base or _base_of(experts), experts, rows, lessons, (GROUP,), 48, settings)


def own_ground(
    folder: Path, data: Path, seeds: Sequence[int], lessons: Path | None = None, base: str | None = None
) -> Ground:
    """A folder of adapters and prompts of one's own.

    Args:
        folder: of PEFT adapters.
        data: JSONL with prompt (or messages), answer and, if you like, task and group.
        seeds: of trainings; the prompts stay the same.
        lessons: the same kind of file, to train on.
        base: by default what the adapters call their base.

    Raises:
        RosterError: a file or folder that cannot be read, or adapters that name no base.
    """
    rows = read_rows(data)
    base = base or _base_of(folder)
    groups = list(dict.fromkeys(row.group or "all" for row in rows))
    return Ground(
        folder.name,
        base,
        folder,
        dict.fromkeys(seeds, rows),
        [] if lessons is None else read_rows(lessons),
        groups,
        32,
        Settings(steps=100, batch_size=16, learning_rate=5e-3, save_every=50, progress=False),
    )


def _base_of(folder: Path) -> str:
    for path in adapter_folders(folder):
        told = json.loads((path / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
        if told:
            return str(told)
    raise RosterError(f"the adapters in {str(folder)!r} name no base: give it by --base")


def _count(count: float, scale: float) -> int:
    return max(1, round(count * scale))
