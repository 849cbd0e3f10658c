"""Why a prompt went where it went: the ranking, calibrated probabilities, the nearest examples, and the threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from roster.auto.calibration import lead
from roster.auto.classes import placed
from roster.auto.judge import Judge, Knowledge
from roster.context import Context
from roster.errors import RosterError
from roster.prompts import Prompt, words
from roster.routed.deciding import prompt_features

NEAREST = 5


@dataclass(frozen=True)
class Ranked:
    """One class of adapters.

    Attributes:
        expert: who stands for it.
        others: adapters that its examples cannot tell from that one.
        probability: calibrated, among all classes and nobody.
        cosine: of the prompt with the class's mean.
    """

    expert: str
    others: tuple[str, ...]
    probability: float
    cosine: float


@dataclass(frozen=True)
class Explanation:
    """What `auto` makes of one prompt.

    Attributes:
        weights: of the experts on duty; empty where the base answers alone.
        ranking: every class, the best first.
        nearest: (expert, example, cosine) of the nearest examples.
        nobody: the probability that the prompt is nobody's.
        lead: by how much the best adapter's cosine is above nobody's.
        threshold, floor: the smallest lead and the lowest cosine that are believed.
        block, pooling: what is read.
    """

    weights: dict[str, float]
    ranking: tuple[Ranked, ...]
    nearest: tuple[tuple[str, str, float], ...]
    nobody: float
    lead: float
    threshold: float
    floor: float
    block: int
    pooling: str

    @property
    def why(self) -> str:
        """The decision in one sentence."""
        best = self.ranking[0]
        if not self.weights and best.cosine < self.floor:
            return (
                f"nobody: the nearest adapter, {best.expert}, has a cosine of {best.cosine:.2f}, below "
                f"{self.floor:.2f}; the base answers alone"
            )
        if not self.weights:
            return (
                f"nobody: the nearest adapter, {best.expert}, is {self.lead:+.2f} from general prompts, below the "
                f"threshold of {self.threshold:+.2f}; the base answers alone"
            )
        share = " and ".join(f"{name} ({weight:.0%})" for name, weight in self.weights.items())
        return f"{share}: nearer than general prompts by {self.lead:.2f}, where {self.threshold:.2f} is asked"


@torch.no_grad()
def explain(model: Any, prompt: Prompt) -> Explanation:
    """What a model with the recipe `auto` decides on a prompt, and why.

    Args:
        model: a routed model.
        prompt: a text or a chat.

    Raises:
        RosterError: another recipe.
    """
    mixture = model.roster
    judge = mixture.head
    if not isinstance(judge, Judge):
        raise RosterError(f"recipe {mixture.recipe!r} cannot be explained so; trace its routes instead")
    ids_BS = torch.tensor([mixture.rendering.ids(prompt)], device=model.device)
    context = Context(1, ids_BS.shape[1], input_ids_BS=ids_BS)
    features_BF = prompt_features(model, context, {"input_ids": ids_BS})
    scores_BM, known = judge.scores(features_BF), judge.knowledge
    expert_BK, weight_BK = judge.decide(scores_BM).unbind(1)
    pairs = zip(expert_BK[0].long().tolist(), weight_BK[0].tolist(), strict=True)
    temperature, threshold, floor, _ = known.limits_4.tolist()
    chance_M = (scores_BM[0] / temperature).softmax(0).tolist()
    members: dict[int, list[str]] = {}
    for name, number in zip(mixture.experts, known.class_E.tolist(), strict=True):
        members.setdefault(number, []).append(name)
    ranking = []
    for number in scores_BM[0, :-1].argsort(descending=True).tolist():
        stands = mixture.experts[int(known.expert_C[number])]
        others = tuple(name for name in members[number] if name != stands)
        ranking.append(Ranked(stands, others, chance_M[number], float(scores_BM[0, number])))
    return Explanation(
        weights={mixture.experts[expert]: weight for expert, weight in pairs if weight > 0},
        ranking=tuple(ranking),
        nearest=_nearest(mixture, known, features_BF),
        nobody=chance_M[-1],
        lead=float(lead(scores_BM)[0]),
        threshold=threshold,
        floor=floor,
        block=int(known.place_2[0]),
        pooling=judge.pooling,
    )


def _nearest(mixture: Any, known: Knowledge, features_BF: torch.Tensor) -> tuple[tuple[str, str, float], ...]:
    example_NF = placed(known.example_NF, known.center_F, known.whitens)
    cosine_N = example_NF @ placed(features_BF, known.center_F, known.whitens)[0]
    found = []
    for at in cosine_N.topk(min(NEAREST, len(cosine_N))).indices.tolist():
        name = mixture.experts[int(known.expert_N[at])]
        text = words(mixture.adapters[name].card.examples[int(known.index_N[at])])
        found.append((name, text, float(cosine_N[at])))
    return tuple(found)
