"""AutoMix: a model checks its own answer a few times; how often it agrees is the confidence, where there is no other.

The share of checks that say "right" is noisy, so a meta-verifier learns what it means from recorded outcomes: in each
bin of the share, how often the strong model would have helped ("needy": only it is right), how often nothing helps
("hopeless": neither is), and how often nothing is needed ("good"). One step of the source's partially observable
decision process then says which bins are worth the strong model's price.

Source: Aggarwal, Madaan, Anand, Potharaju, Mishra, Zhou, Gupta, Rajagopal, Kappaganthu, Yang, Upadhyay, Faruqui,
Mausam, 2023, "AutoMix: Automatically Mixing Language Models", arXiv:2310.12963. Bins, categories and values as in the
authors' code; there the checks are few-shot prompts over a context, here one question in words of ours, with a context
if there is one.

Shape legend: N prompts, V bins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.decide.checked import steps
from roster.lm.part import Part
from roster.lm.records import Matrix

NEEDY, GOOD, HOPELESS = range(3)
_REFUSED = 100.0
"""What asking the strong model costs in the source's table of values."""
_VERDICT = re.compile(r"\b(in)?correct\b|\b(wrong|right)\b", re.IGNORECASE)


def self_verified(ask: Callable[[str], str], prompt: str, answer: str, samples: int = 8, context: str = "") -> float:
    """The share of a model's own checks that call its answer correct; unreadable checks count as half.

    Args:
        ask: prompt -> answer of the model that gave the answer, at a temperature above zero.
        prompt, answer: what was asked, and what it said.
        samples: checks, each a call to be paid.
        context: what the answer must agree with, such as a retrieved passage.
    """
    if samples < 1:
        raise RosterError(f"an answer is checked at least once, not {samples} times")
    question = verification_prompt(prompt, answer, context)
    return float(np.mean([_says_correct(ask(question)) for _ in range(samples)]))


def verification_prompt(prompt: str, answer: str, context: str = "") -> str:
    """The question that is put to the model."""
    parts = [f"Context:\n{context}\n"] if context else []
    parts += [f"Question:\n{prompt}\n", f"Proposed answer:\n{answer}\n"]
    ending = "agree with the context and answer" if context else "answer"
    parts.append(
        f"Does the proposed answer {ending} the question? Think it over, then end with one word: Correct or Incorrect."
    )
    return "\n".join(parts)


def _says_correct(text: str) -> float:
    """1, 0, or a half where no verdict can be read; the last verdict counts."""
    found = list(_VERDICT.finditer(text))
    if not found:
        return 0.5
    negative, plain = found[-1][1], found[-1][2]
    return float(not negative if plain is None else plain.lower() == "right")


class MetaVerifier(Part):
    """What a share of agreeing checks is worth, learned from prompts on which both models were scored.

    Args:
        bins: of the share, 0 to 1 in so many steps; as many as checks.
        good: score from which an answer is right.
    """

    fitted: ClassVar[tuple[str, ...]] = ("chance_V3", "count_V")

    def __init__(self, bins: int = 8, good: float = 0.5):
        if bins < 1:
            raise RosterError(f"a meta-verifier needs at least one step between 0 and 1, not {bins}")
        self.bins, self.good = bins, good

    def fit(self, share_N: Matrix, small_N: Matrix, large_N: Matrix) -> MetaVerifier:
        """Counts the categories in each bin.

        Args:
            share_N: of checks that agreed with the small model's answer.
            small_N, large_N: scores of both models.
        """
        if not len(share_N) == len(small_N) == len(large_N) or not len(share_N):
            raise RosterError(
                "a meta-verifier learns from a share and two scores of each prompt, and at least one prompt"
            )
        kind_N = categories(small_N, large_N, self.good)
        overall_3 = np.bincount(kind_N, minlength=3) / len(kind_N)
        count_V3 = np.zeros((self.bins + 1, 3))
        np.add.at(count_V3, (self.bin(share_N), kind_N), 1)
        self.count_V = count_V3.sum(1)
        # An empty bin is as any other; the source leaves it at zero, and so never escalates there.
        self.chance_V3 = np.where(self.count_V[:, None] > 0, count_V3 / np.maximum(self.count_V, 1)[:, None], overall_3)
        return self

    def bin(self, share_N: Matrix) -> NDArray[np.int64]:
        """The nearest step of each share."""
        return steps(share_N, self.bins)

    def escalates(self, reward: float) -> NDArray[np.bool_]:
        """For each bin, whether the strong model is worth asking, [V].

        Args:
            reward: what a mended answer is worth, where asking costs 100; the dial, from 0 (never) upwards.
        """
        value_23 = np.array(
            [[-reward, 0.0, -reward - 1], [-_REFUSED, -_REFUSED, -reward - _REFUSED]]
        )  # keep, ask; of a needy, a good and a hopeless answer
        keep_V, ask_V = (self.chance_V3 @ value_3 for value_3 in value_23)
        return np.asarray(ask_V > keep_V)

    def confidence(self, share_N: Matrix) -> Matrix:
        """How likely it is that the strong model is not needed, [N]: what a `Cascade` compares with its threshold."""
        return np.asarray(1 - self.chance_V3[self.bin(share_N), NEEDY])


def categories(small_N: Matrix, large_N: Matrix, good: float = 0.5) -> NDArray[np.int64]:
    """NEEDY where only the large model is right, GOOD where the small one is, HOPELESS where neither is."""
    small_right_N, large_right_N = np.asarray(small_N) >= good, np.asarray(large_N) >= good
    return np.where(small_right_N, GOOD, np.where(large_right_N, NEEDY, HOPELESS))


def dial(verifier: MetaVerifier, steps: int = 40) -> Sequence[float]:
    """Rewards from "never ask" to "always where it may help", at which some bin changes sides."""
    needy_V, hopeless_V = verifier.chance_V3[:, NEEDY], verifier.chance_V3[:, HOPELESS]
    change = [(_REFUSED - h) / n for n, h in zip(needy_V, hopeless_V, strict=True) if n > 0]
    return [0.0, *sorted(c * (1 + 1e-9) for c in change)][: steps + 1]
