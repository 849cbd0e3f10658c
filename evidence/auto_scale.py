"""Folders of hundreds and of more than a thousand adapters on the real ground: who is chosen, and at what cost.

The folders are derived from the trained adapters: each is joined by adapters for a part of its skill, by stand-ins for
other training runs, by duplicates, by noisy copies and by half-trained ones. What a folder's owner sees of them are
cards with example prompts; weights count where several of one skill fight for who serves.

Shape legend: N prompts, P places, F features.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from evidence.auto_ground import Ground, States
from roster.auto.duels import champions
from roster.auto.features import Place
from roster.auto.fitting import fit_library
from roster.auto.generic import GENERIC
from roster.auto.judge import Judge, Knowledge
from roster.auto.settings import Settings
from roster.auto.wordings import wordings
from roster.library import Adapter, Library, LowRank
from roster.pocket.contents import digest
from roster.prompts import Prompt, Rendering
from roster.smol.skills import questions

BLOCK = 5
"""Where cross-validation over the whole depth reads, too (docs/results/auto.md)."""
POOL, OWN = 300, 20
"""Prompts a skill that cards are drawn from, beside the trained adapter's own; examples on a card."""
KINDS = ("part", "run", "duplicate", "noisy", "half-trained")
RUN, NOISY, HALF = 0.1, 1.0, 0.5
"""Noise, as a share of each tensor's own deviation, of another run and of a noisy copy; the scale of a half-trained
update, which lies half way on the straight line from where its training began."""


@dataclass(frozen=True)
class Member:
    """One adapter of a folder.

    Attributes:
        name: unique in it.
        skill: of the trained adapter that it comes from.
        kind: "trained", or one of `KINDS`.
        prompts: on its card.
    """

    name: str
    skill: str
    kind: str
    prompts: list[Prompt]


def pool(ground: Ground, skill: str) -> list[Prompt]:
    """All prompts that cards of a skill are drawn from: of the training items, in wordings of the training."""
    return [*ground.examples(skill), *(each.prompt for each in questions(skill, "train", POOL, seed=2))]


def members(ground: Ground, count: int) -> list[Member]:
    """A folder of so many adapters: the trained ones, then the kinds in turn, skill by skill."""
    skills = ground.skills
    pools = {skill: pool(ground, skill) for skill in skills}
    found = [Member(skill, skill, "trained", ground.examples(skill)) for skill in skills]
    for at in range(count - len(found)):
        skill, turn = skills[at % len(skills)], at // len(skills)
        kind = KINDS[(at + turn) % len(KINDS)]
        rng, own = Random(digest(f"auto/scale/{skill}/{turn}")), ground.examples(skill)
        if kind == "part":
            own = _part(pools[skill], rng)
        elif kind in ("run", "half-trained"):
            own = rng.sample(pools[skill], OWN)
        found.append(Member(f"{skill}-{turn}", skill, kind, own))
    return found[:count]


def _part(prompts: Sequence[Prompt], rng: Random) -> list[Prompt]:
    """Those of half of the wordings."""
    numbers = wordings(prompts)
    kept = set(rng.sample(sorted(set(numbers)), max(1, len(set(numbers)) // 2)))
    own = [prompt for prompt, number in zip(prompts, numbers, strict=True) if number in kept]
    return rng.sample(own, min(OWN, len(own)))


def library_of(trained: Library, folder: Sequence[Member], weights: bool) -> Library:
    """The folder as a library; without weights every adapter has those that it comes from."""
    made: dict[str, Adapter] = {}
    for each in folder:
        origin = trained[each.skill]
        card = origin.card.model_copy(update={"examples": each.prompts})
        adapter = replace(origin, name=each.name, card=card)
        if weights and each.kind in ("run", "noisy", "half-trained"):
            modules = {name: _other(update, each) for name, update in origin.modules.items()}
            adapter = replace(adapter, modules=modules, weights_hash=f"{origin.weights_hash}/{each.name}")
        made[each.name] = adapter
    return Library(made)


def _other(update: LowRank, member: Member) -> LowRank:
    if member.kind == "half-trained":
        return replace(update, scale=update.scale * HALF)
    noise = RUN if member.kind == "run" else NOISY
    generator = torch.Generator().manual_seed(digest(f"{member.name}/{tuple(update.A_RD.shape)}") % 2**31)

    def disturbed(tensor: Tensor) -> Tensor:
        added = torch.randn(tensor.shape, generator=generator) * tensor.float().std() * noise
        return (tensor.float() + added).to(tensor.dtype)

    return replace(update, A_RD=disturbed(update.A_RD), B_OR=disturbed(update.B_OR))


class Pools:
    """Features of every prompt that may stand on a card, read once."""

    def __init__(self, states: States):
        ground = states.ground
        prompts = [prompt for skill in ground.skills for prompt in pool(ground, skill)]
        self.places = states.places
        found = [(prompts, states.of("pool", prompts)), (list(GENERIC), states.of("general", GENERIC))]
        self.known = {
            str(prompt): row_PF for each, states_NPF in found for prompt, row_PF in zip(each, states_NPF, strict=True)
        }

    def read(self, prompts: Sequence[Prompt], places: Sequence[Place], tick: Callable[[int], None]) -> Tensor:
        """[N, P, F], as `roster.auto.features.features_of`."""
        at = [self.places.index(place) for place in places]
        tick(len(prompts))
        return torch.stack([self.known[str(prompt)][at] for prompt in prompts])


def scaled(ground: Ground, states: States, count: int, duels: bool) -> dict[str, Any]:
    """What `auto` makes of one folder.

    Args:
        ground: the real one.
        states: which read behind `BLOCK` alone.
        count: adapters.
        duels: whether to find out which of several adapters of one skill serves.
    """
    trained, folder, pools = Library.read(ground.adapters), members(ground, count), Pools(states)
    library = library_of(trained, folder, weights=duels)
    model, tokenizer = states.base()
    rendering = Rendering(tokenizer)
    started = time.thread_time()
    knowledge, _ = fit_library(model, library, rendering, Settings(BLOCK), pools.read)
    fitted_s = time.thread_time() - started
    duels_s = None
    if duels:
        started = time.thread_time()
        expert_C = torch.tensor(champions(model, library, rendering, knowledge.class_E.tolist()))
        knowledge, duels_s = replace(knowledge, expert_C=expert_C), time.thread_time() - started
    return {
        "adapters": count,
        "kinds": Counter(each.kind for each in folder),
        "classes": len(knowledge.expert_C),
        "fit_s": round(fitted_s, 1),
        "duels_s": None if duels_s is None else round(duels_s, 1),
        "champions": Counter(folder[at].kind for at in knowledge.expert_C.tolist()) if duels else None,
        "groups": {name: _chosen(ground, states, folder, knowledge, name) for name in ("known", "unseen", "switching")},
        "nobody": _left(ground, states, knowledge, len(folder)),
        "examples": _own(pools, folder, knowledge),
    }


def _decided(states: States, knowledge: Knowledge, count: int, features_NPF: Tensor) -> list[int | None]:
    """The expert of each prompt; None where the base answers."""
    judge = Judge(count)
    judge.learn(knowledge)
    at = states.places.index((judge.blocks[0], judge.pooling))
    with torch.no_grad():
        expert_NK, weight_NK = judge(features_NPF[:, at].float()).unbind(1)
    return [
        int(expert) if weight > 0 else None
        for expert, weight in zip(expert_NK[:, 0].tolist(), weight_NK[:, 0].tolist(), strict=True)
    ]


def _chosen(
    ground: Ground, states: States, folder: Sequence[Member], knowledge: Knowledge, name: str
) -> dict[str, Any]:
    items = ground.items(name)
    found = _decided(states, knowledge, len(folder), states.of(name, [item.messages for item in items]))
    right = [
        expert is not None and folder[expert].skill == item.skill for expert, item in zip(found, items, strict=True)
    ]
    return {
        "right": sum(right) / len(right),
        "left": sum(expert is None for expert in found) / len(found),
        "who": [None if expert is None else folder[expert].name for expert in found],
    }


def _left(ground: Ground, states: States, knowledge: Knowledge, count: int) -> float:
    items = ground.items("nobody")
    found = _decided(states, knowledge, count, states.of("nobody", [item.messages for item in items]))
    return sum(expert is None for expert in found) / len(found)


def _own(pools: Pools, folder: Sequence[Member], knowledge: Knowledge) -> int:
    """How many examples were read for the folder."""
    return len({str(prompt) for each in folder for prompt in each.prompts})
