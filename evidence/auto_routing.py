"""Routing alone: who is chosen, from hidden states that were read once. No answers, hence cheap.

Shape legend: N prompts, P places, D width, C skills.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from evidence.auto_ground import Ground, States
from roster.auto.calibration import Calibration, lead
from roster.auto.choosing import FOLDS, Tried, best, fitted, item_by_item, try_all, validated
from roster.auto.classes import Classes
from roster.auto.generic import GENERIC
from roster.auto.groups import confused
from roster.auto.wordings import folds
from roster.errors import RosterError
from roster.lm.encode import encoder
from roster.prompts import Prompt

GROUPS = ("known", "unseen", "switching")
COUNTS = (1, 3, 5, 10, 20)
PARTS = (1, 4, 10)
MANY = 10_000
ENCODER = "minilm"
"""The sentence encoder that is tried beside the base's own states."""


def routing(ground: Ground, states: States) -> dict[str, Any]:
    """Every figure that needs no answers."""
    data = _Data(ground, states)
    tried = try_all(data.known_NPD, data.class_N, data.folds, data.general_GPD, states.places, [True, False])
    chosen = best(tried)
    early = best([each for each in tried if each.place[0] <= 10])
    return {
        "skills": data.skills,
        "ladder": [_rung(data, each) for each in tried],
        "chosen": _rung(data, chosen),
        "early": _rung(data, early),
        "encoders": _encoders(ground, data),
        "questions": {name: len(skills) for name, (_, skills) in data.groups.items()},
        "examples": {str(count): _with_fewer(data, chosen, count) for count in COUNTS},
        "many": {str(parts * len(data.skills)): _split(data, chosen, parts) for parts in PARTS},
    }


class _Data:
    """Examples and test groups, as hidden states."""

    def __init__(self, ground: Ground, states: States):
        self.skills = ground.skills
        prompts = [(skill, prompt) for skill in self.skills for prompt in ground.examples(skill)]
        self.prompts = [prompt for _, prompt in prompts]
        self.class_N = torch.tensor([self.skills.index(skill) for skill, _ in prompts])
        self.places = states.places
        self.general_GPD = states.of("general", GENERIC)
        self.known_NPD = states.of("examples", self.prompts)
        self.folds = folds(self.class_N.tolist(), self.prompts, FOLDS)
        self.groups: dict[str, tuple[Tensor, list[str | None]]] = {}
        for name in ("nobody", "unseen", "switching", "known", "close"):
            items = ground.items(name)
            self.groups[name] = states.of(name, [item.messages for item in items]), [item.skill for item in items]

    def right(self, classes: Classes, calibration: Calibration, name: str, at: int, parts: int = 1) -> dict[str, float]:
        """Shares of a group: right choices, right choices that were also believed, and prompts left to the base."""
        states_NPD, skills = self.groups[name]
        scores_NM = classes.scores(states_NPD[:, at])
        best_N, class_N = scores_NM[:, :-1].max(1)
        believed_N = (lead(scores_NM) >= calibration.threshold) & (best_N >= calibration.floor)
        left = 1 - float(believed_N.float().mean())
        if name in ("nobody", "close"):
            return {"left": left}
        chosen = [self.skills[number // parts] for number in class_N.tolist()]
        right_N = torch.tensor([one == other for one, other in zip(chosen, skills, strict=True)])
        return {
            "right": float(right_N.float().mean()),
            "routed right": float((right_N & believed_N).float().mean()),
            "left": left,
        }


def _rung(data: _Data, tried: Tried) -> dict[str, Any]:
    at = data.places.index(tried.place)
    classes = fitted(data.known_NPD[:, at], data.class_N, data.general_GPD[:, at], tried.whiten)
    shares = {name: data.right(classes, tried.calibration, name, at) for name in data.groups}
    return {
        "block": tried.place[0],
        "pooling": tried.place[1],
        "whitened": tried.whiten,
        "validation": vars(tried.calibration),
        **shares,
    }


def _encoders(ground: Ground, data: _Data) -> list[dict[str, Any]]:
    """The same classifier on vectors of a sentence encoder instead of the base's hidden states; none where it is not
    installed."""
    try:
        known = encoder(ENCODER).fit([])
    except RosterError:
        return []

    def read(prompts: Sequence[Prompt]) -> Tensor:
        said = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
        return torch.from_numpy(known.encode(said))

    own_NF, general_GF = read(data.prompts), read(GENERIC)
    found = []
    for whiten in (True, False):
        calibration, _ = validated(own_NF, data.class_N, data.folds, general_GF, whiten)
        classes = fitted(own_NF, data.class_N, general_GF, whiten)
        seen = copy(data)
        seen.groups = {
            name: (read([item.messages for item in ground.items(name)])[:, None], skills)
            for name, (_, skills) in data.groups.items()
        }
        shares = {name: seen.right(classes, calibration, name, 0) for name in seen.groups}
        about = {"block": ENCODER, "pooling": "sentence", "whitened": whiten, "validation": vars(calibration)}
        found.append({**about, **shares})
    return found


def _with_fewer(data: _Data, chosen: Tried, count: int) -> dict[str, Any]:
    """The same place and classifier, with the first examples of each adapter only."""
    at, seen = data.places.index(chosen.place), [0] * len(data.skills)
    kept = []
    for place, number in enumerate(data.class_N.tolist()):
        seen[number] += 1
        if seen[number] <= count:
            kept.append(place)
    class_N, features_NF = data.class_N[kept], data.known_NPD[kept, at]
    fold_N = folds(class_N.tolist(), [data.prompts[each] for each in kept], FOLDS)
    calibration, _ = validated(features_NF, class_N, fold_N, data.general_GPD[:, at], chosen.whiten)
    classes = fitted(features_NF, class_N, data.general_GPD[:, at], chosen.whiten)
    return {name: data.right(classes, calibration, name, at) for name in data.groups}


def _split(data: _Data, chosen: Tried, parts: int) -> dict[str, Any]:
    """Each skill's examples dealt out to several adapters, which then differ in nothing else: right is the skill."""
    at, C, seen = data.places.index(chosen.place), len(data.skills), [0] * len(data.skills)
    dealt = []
    for number in data.class_N.tolist():
        dealt.append(number * parts + seen[number] % parts)
        seen[number] += 1
    class_N, features_NF = torch.tensor(dealt), data.known_NPD[:, at]
    fold_N = folds(dealt, data.prompts, FOLDS)
    general_GF = data.general_GPD[:, at]
    calibration, _ = validated(features_NF, class_N, fold_N, general_GF, chosen.whiten)
    scores_NC = item_by_item(features_NF, class_N, general_GF, chosen.whiten)
    classes = fitted(features_NF, class_N, general_GF, chosen.whiten)
    shares = {name: data.right(classes, calibration, name, at, parts) for name in data.groups}
    return {"classes": len(set(confused(scores_NC, class_N))), "adapters": C * parts, **shares}


def timing() -> dict[str, float]:
    """What deciding and fitting cost, in seconds of one thread's own: what else the machine does matters little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"decision_ms": decision_time(), "fit_s_1500": fit_time()}
    finally:
        torch.set_num_threads(threads)


def decision_time(classes: int = MANY, width: int = 576) -> float:
    """Milliseconds to decide on one prompt among so many adapters, features given; median of 50."""
    from roster.auto.judge import Judge, Knowledge

    judge, index = Judge(classes), torch.arange(classes)
    generator = torch.Generator().manual_seed(0)
    means_FM = torch.nn.functional.normalize(torch.randn(width, classes + 1, generator=generator), dim=0)
    none = torch.zeros(0, dtype=torch.long)
    judge.learn(
        Knowledge(
            none, torch.tensor([1, 0]), torch.zeros(width), torch.eye(width), means_FM, index, index,
            torch.zeros(0, width).half(), none, none, torch.zeros(0, width).half(), torch.tensor([0.1, 0.0, 0.2, 1.0]),
        )
    )  # fmt: skip
    features_BF = torch.randn(1, width, generator=generator)
    return _median_ms(lambda: judge(features_BF), 50)


def fit_time(classes: int = 1500, examples: int = 20, width: int = 576) -> float:
    """Seconds to fit and calibrate a library of so many adapters, beyond the passes over their examples."""
    generator = torch.Generator().manual_seed(0)
    means_CF = torch.randn(classes, width, generator=generator)
    class_N = torch.arange(classes).repeat_interleave(examples)
    features_NF = (means_CF[class_N] + torch.randn(len(class_N), width, generator=generator)).half()
    general_GF = torch.randn(64, width, generator=generator).half()
    started = time.thread_time()
    validated(features_NF, class_N, [at % FOLDS for at in range(len(class_N))], general_GF, True)
    fitted(features_NF, class_N, general_GF, True)
    return round(time.thread_time() - started, 2)


def _median_ms(run: Any, count: int) -> float:
    times: list[float] = []
    with torch.no_grad():
        for _ in range(count + 5):
            started = time.thread_time()
            run()
            times.append(time.thread_time() - started)
    return round(sorted(times[5:])[count // 2] * 1000, 3)
