"""The test groups of the real ground, as plain data: what a comparison of routers asks, and what the right answers are.

`group` gives the items of one group; an item is one chat. Beside prompts there are libraries: `library` copies the
adapters into a folder with duplicates and noisy ones, or repeats them up to a count. Half-trained adapters come from
`make` with fewer steps, and are named by the caller.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from roster.errors import RosterError, nearest
from roster.library import refresh_cards
from roster.pocket.contents import digest
from roster.prompts import Message
from roster.saving import writing
from roster.smol.skills import CLOSE, SKILLS, TRAINED, Question, questions
from roster.smol.stages import WEIGHTS

Messages = list[Message]


@dataclass(frozen=True)
class Item:
    """One chat to answer.

    Attributes:
        group: of the test.
        messages: in transformers' form; the last one is the user's.
        answer: the right one; None where the base's own answer is the measure.
        skill: what the last turn asks for; None for nobody's prompts.
        close_to: for a skill without adapter: the trained skill that it resembles.
    """

    group: str
    messages: Messages
    answer: str | None
    skill: str | None
    close_to: str | None = None


_CHATS = 1000
"""Numbers of chats that one seed has for itself."""
_TOPICS = (
    "a rainy day",
    "bread",
    "the sea",
    "a good friend",
    "trains",
    "winter",
    "music",
    "the moon",
    "gardens",
    "sleep",
)
_REQUESTS = (
    "Tell me something about {}.",
    "Write two sentences on {}.",
    "Why do people like {}?",
    "What comes to your mind when you think of {}?",
    "Give me three ideas for a story about {}.",
    "How would you explain {} to a child?",
)


def _items(group: str, asked: Sequence[Question]) -> list[Item]:
    return [Item(group, each.messages, each.answer, each.skill, SKILLS[each.skill].close_to) for each in asked]


def _known(count: int, trained: Sequence[str], seed: int) -> list[Item]:
    asked = [each for name in trained for each in questions(name, "test", count, wordings="train", seed=seed)]
    return _items("known", asked)


def _unseen(count: int, trained: Sequence[str], seed: int) -> list[Item]:
    return _items("unseen", [each for name in trained for each in questions(name, "test", count, seed=seed)])


def _close(count: int, trained: Sequence[str], seed: int) -> list[Item]:
    near = [name for name in CLOSE if SKILLS[name].close_to in trained]
    return _items("close", [each for name in near for each in questions(name, "test", count, seed=seed)])


def _nobody(count: int, trained: Sequence[str], seed: int) -> list[Item]:
    prompts = [request.format(topic) for request in _REQUESTS for topic in _TOPICS]
    Random(digest(_seeded("smol/nobody", seed))).shuffle(prompts)
    return [Item("nobody", [{"role": "user", "content": each}], None, None) for each in prompts[:count]]


def _switching(count: int, trained: Sequence[str], seed: int) -> list[Item]:
    """Chats of three turns, each of another skill; the earlier ones carry the right answers. One item a turn."""
    found = []
    for chat in range(seed * _CHATS, seed * _CHATS + count):
        rng = Random(digest(f"smol/switching/{chat}"))
        told: Messages = []
        for name in rng.sample(list(trained), min(3, len(trained))):
            (asked,) = questions(name, "test", 1, wordings="train", seed=chat)
            told = [*told, *asked.messages]
            found.append(Item("switching", told, asked.answer, name))
            told = [*told, {"role": "assistant", "content": asked.answer}]
    return found


def _mixed(count: int, trained: Sequence[str], seed: int) -> list[Item]:
    """Known prompts of all skills and nobody's in one random order, so that every batch mixes them."""
    found = [*_known(count, trained, seed), *_nobody(count, trained, seed)]
    Random(digest(_seeded("smol/mixed", seed))).shuffle(found)
    return [Item("mixed", each.messages, each.answer, each.skill) for each in found]


def _seeded(name: str, seed: int) -> str:
    """What is drawn by; the first draw has the name alone."""
    return f"{name}/{seed}" if seed else name


GROUPS: dict[str, Callable[[int, Sequence[str], int], list[Item]]] = {
    "known": _known,
    "unseen": _unseen,
    "close": _close,
    "nobody": _nobody,
    "switching": _switching,
    "mixed": _mixed,
}


def group(name: str, count: int = 20, trained: Sequence[str] = TRAINED, seed: int = 0) -> list[Item]:
    """The items of one group, the same at each call.

    Args:
        name: ``known`` and ``unseen`` (wordings of held-out items), ``close`` (skills without adapter that resemble a
            trained one), ``nobody`` (general chat, which the base should answer), ``switching`` (each turn of a chat
            is another skill's), ``mixed``.
        count: items a skill; chats for ``switching``; at most 60 for ``nobody``.
        trained: skills that have an adapter.
        seed: of the draw.

    Raises:
        RosterError: an unknown group.
    """
    if name not in GROUPS:
        raise RosterError(f"unknown group {name!r}: {nearest(name, GROUPS)}")
    return GROUPS[name](count, trained, seed)


def library(adapters: Path, out: Path, count: int, noise: float = 0.0, seed: int = 0) -> dict[str, str]:
    """Write a folder of ``count`` adapters: the given ones, then copies of them in turn.

    Args:
        adapters: folders of PEFT adapters.
        out: the folder to write; one that exists is replaced as a whole.
        count: adapters in all, such as 16, 64 or 256; fewer than there are keeps the first ones.
        noise: of the copies' weights: the standard deviation of what is added, as a share of each tensor's own. 0:
            plain duplicates; 1 and above: adapters that are good for little.
        seed: of the noise.

    Returns:
        Each adapter's name and the skill of its original.

    Raises:
        RosterError: no adapters there.
    """
    names = sorted(path.parent.name for path in adapters.glob(f"*/{WEIGHTS}"))
    if not names:
        raise RosterError(f"{str(adapters)!r} holds no adapter folders: run `roster smol make`")
    skills = {}
    with writing(out) as folder:
        for at in range(count):
            name, turn = names[at % len(names)], at // len(names)
            copy = f"{name}-{turn}" if turn else name
            shutil.copytree(adapters / name, folder / copy)
            if turn and noise:
                _disturb(folder / copy / WEIGHTS, noise, digest(f"{copy}/{seed}") % 2**31)
            skills[copy] = name
        refresh_cards(folder)  # those of noisy copies describe the original's weights
    return skills


def _disturb(path: Path, noise: float, seed: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, each in sorted(load_file(path).items()):
        added = torch.randn(each.shape, generator=generator) * each.float().std() * noise
        state[name] = (each.float() + added).to(each.dtype)
    save_file(state, path, metadata={"format": "pt"})


def as_json(item: Item) -> str:
    """One line of JSONL, as `--data` reads it: `messages`, `answer`, `task` (the skill) and `group`."""
    fields = {"messages": item.messages, "answer": item.answer, "task": item.skill, "group": item.group}
    return json.dumps(fields, ensure_ascii=False)
