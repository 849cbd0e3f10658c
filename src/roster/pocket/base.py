"""The pocket base: a small Llama that knows how to copy, follows the format, and has heard of the skills.

It learns from easy to hard: copies of one or two characters, longer ones of every kind of text, then two-part
prompts and, among the copies, prompts of the held-in skills. Those come too rarely and end too soon to be learned,
but they teach the base to tell the instructions apart, as a pretrained model does that has seen a task in passing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from roster.pocket import contents
from roster.pocket.contents import below, digest
from roster.pocket.skills import COPY, HELD_IN, LENGTHS, SKILLS, WORD_LENGTHS, Skill, two_part
from roster.pocket.tokenizer import MAX_LENGTH
from roster.pocket.training import Pair

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 0
BATCH = 32
LEARNING_RATE = 1.2e-3

_DRAWS = (
    contents.letters,
    contents.letters,
    contents.digits,
    contents.capitals,
    contents.mixed,
    contents.voweled,
    contents.repeated,
    contents.words,
)
COPIES = tuple(replace(COPY, draw=draw, lengths=WORD_LENGTHS if draw is contents.words else LENGTHS) for draw in _DRAWS)
"""Copying, once for each kind of text that any skill is asked about; plain letters count twice."""


@dataclass(frozen=True)
class Stage:
    """A stretch of the curriculum.

    Args:
        steps: batches of ``BATCH``.
        longest: most characters of a copied text, for the first stages; ``None``: as long as the suite's.
        two_copies: share of two-part prompts that ask for two copies.
        skill_and_copy: share of two-part prompts that ask for a held-in skill and a copy.
        skill: share of plain prompts of held-in skills. The rest are plain copies.
    """

    steps: int
    longest: int | None = None
    two_copies: float = 0.0
    skill_and_copy: float = 0.0
    skill: float = 0.0


CURRICULUM = (
    Stage(80, longest=2),
    Stage(80, longest=4),
    Stage(240, skill_and_copy=0.07, skill=0.35),
    Stage(900, two_copies=0.23, skill_and_copy=0.12, skill=0.25),
)
EASY = ("upper", "digits")
"""Skills that would be learned at once: they come a third as often as the others."""

HEARD = (*HELD_IN[:-1], "dedupe", HELD_IN[-1])
"""The skills that the base has heard of."""
HARDER: dict[str, dict[str, Any]] = {
    "sort": {"draw": contents.letters, "lengths": LENGTHS},
    "consonants": {"lengths": LENGTHS},
}
"""Where it hears of harder texts than are taught and asked about later."""


def build_base(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The base before training: 4 layers, width 256, 3.0 M parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        # Texts are short, and a small model wakes up sooner from large weights: after 200 steps on copies alone,
        # 0.05 gave 13 % of them right where 0.02 gave 2 %.
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        initializer_range=0.06,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def draw_copy(rng: Random) -> Skill:
    """Copying, on a kind of text drawn at random."""
    return COPIES[below(rng, len(COPIES))]


def _draw_skill(rng: Random) -> Skill:
    while True:
        name = HEARD[below(rng, len(HEARD))]
        if name not in EASY or rng.random() < 1 / 3:
            return replace(SKILLS[name], **HARDER.get(name, {}))


def base_pairs() -> list[Pair]:
    """The base's training set in the order of its curriculum."""
    rng = Random(digest("base"))
    return [_pair(stage, rng) for stage in CURRICULUM for _ in range(stage.steps * BATCH)]


def _pair(stage: Stage, rng: Random) -> Pair:
    level, wording = below(rng, 3), below(rng, 144)
    skill, copied = _draw_skill(rng), draw_copy(rng)
    draw = rng.random()
    if draw < stage.two_copies:
        return two_part(rng, "train", [copied, draw_copy(rng)], level + 1, wording)
    draw -= stage.two_copies
    if draw < stage.skill_and_copy:
        parts = [skill, copied] if rng.random() < 0.5 else [copied, skill]
        return two_part(rng, "train", parts, level + 1, wording)
    draw -= stage.skill_and_copy
    if stage.longest:
        copied = COPIES[below(rng, 5)]  # without the texts that cannot be that short
        question, answer = copied.ask(rng, "train", (1, stage.longest), wording)
    else:
        plain = skill if draw < stage.skill else copied
        question, answer = plain.ask(rng, "train", plain.lengths[level], wording)
    return f"{question} =", answer
