"""The LoRA experts, one held-in skill each, and the one multi-task LoRA of the same total size.

An expert sees its own skill and copying, nothing else: most questions stand alone, the others are one of two parts,
first or second, of a prompt whose other part is a copy. So it learns its operation without unlearning the format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from roster.pocket import BASE_NAME
from roster.pocket.base import draw_copy
from roster.pocket.contents import below, digest
from roster.pocket.skills import HELD_IN, SKILLS, Skill, examples, two_part
from roster.pocket.training import Pair

CARD_PROMPTS = 12
MULTITASK_LEARNING_RATE = 2e-3
MULTITASK_SHARE = 0.5
"""Training examples of the multi-task adapter as a share of all experts' together. It reuses what skills have in
common, and a full share would take as long as all experts; the record has both numbers."""
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Shape:
    """The LoRA settings of one expert.

    Args:
        rank: of the update matrices.
        alpha: scale; the update is multiplied by ``alpha / rank`` (by ``alpha / sqrt(rank)`` with ``rslora``).
        targets: as in PEFT.
        rslora: whether the scale is that of rank-stabilised LoRA.
        alpha_pattern: other alphas for some modules, as in PEFT.
        steps: of training.
        batch: examples per step.
        two_part: share of two-part prompts among the examples.
        learning_rate: peak.
    """

    rank: int = 8
    alpha: int = 16
    targets: str | tuple[str, ...] = "all-linear"
    rslora: bool = False
    alpha_pattern: dict[str, int] = field(default_factory=dict)
    steps: int = 200
    batch: int = 32
    two_part: float = 1 / 3
    learning_rate: float = 4e-3


SHAPES: dict[str, Shape] = {name: Shape() for name in HELD_IN} | {
    # What takes longer to learn, above all as one of two questions.
    "reverse": Shape(steps=400, two_part=0.5),
    "sort": Shape(steps=450, two_part=0.5),
    "vowels": Shape(steps=300),
    "consonants": Shape(steps=400),
    "digits": Shape(steps=150),
    # Unlike the others on purpose: what reads a folder of adapters must cope with mixed shapes.
    "upper": Shape(rank=4, alpha=8, targets=ATTENTION, rslora=True, steps=150),
    "rotate": Shape(rank=16, alpha=32, targets=ATTENTION, alpha_pattern={"v_proj": 16}, steps=300, two_part=0.5),
}


def lora_config(shape: Shape) -> Any:
    """The PEFT configuration of ``shape``."""
    from peft import LoraConfig

    targets = shape.targets if isinstance(shape.targets, str) else list(shape.targets)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=shape.rank,
        lora_alpha=shape.alpha,
        target_modules=targets,
        use_rslora=shape.rslora,
        alpha_pattern=dict(shape.alpha_pattern),
    )


def multitask_shape(model: Any) -> Shape:
    """One all-linear LoRA for ``model`` with as many parameters as all experts together, to half a rank."""
    from torch import nn

    linear = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    adaptable = {name: each.in_features + each.out_features for name, each in linear.items() if name != "lm_head"}
    total = sum(
        shape.rank * width
        for shape in SHAPES.values()
        for name, width in adaptable.items()
        if shape.targets == "all-linear" or name.endswith(shape.targets)
    )
    rank = round(total / sum(adaptable.values()))
    steps = round(MULTITASK_SHARE * sum(shape.steps for shape in SHAPES.values()))
    return Shape(rank=rank, alpha=2 * rank, steps=steps, learning_rate=MULTITASK_LEARNING_RATE)


def training_pairs(skill: str, count: int, rng: Random) -> list[Pair]:
    """``count`` prompts and answers of the kind that the expert of ``skill`` learns from."""
    return [_pair(SKILLS[skill], rng) for _ in range(count)]


def expert_pairs(skill: str) -> list[Pair]:
    """The training set of one expert, from a seed of its own."""
    shape = SHAPES[skill]
    return training_pairs(skill, shape.steps * shape.batch, Random(digest(f"expert/{skill}")))


def _pair(skill: Skill, rng: Random) -> Pair:
    level, wording = below(rng, len(skill.lengths)), below(rng, 144)
    if rng.random() < SHAPES[skill.name].two_part:
        parts = [skill, draw_copy(rng)]
        if rng.random() < 0.5:
            parts.reverse()
        return two_part(rng, "train", parts, level + 1, wording)
    question, answer = skill.ask(rng, "train", skill.lengths[level], wording)
    return f"{question} =", answer


def multitask_pairs(count: int) -> list[Pair]:
    """The training set of the multi-task adapter: every expert's kind of prompts, in turn."""
    rng = Random(digest("multitask"))
    return [_pair(SKILLS[HELD_IN[at % len(HELD_IN)]], rng) for at in range(count)]


def card(skill: str) -> dict[str, Any]:
    """What is told about an expert beside its weights; the hashes are filled in by whoever files it."""
    return {
        "task": skill,
        "description": SKILLS[skill].description,
        "examples": [example.prompt for example in examples(skill, "train", CARD_PROMPTS)],
        "base": BASE_NAME,
        "base_hash": None,
        "weights_hash": None,
    }
