"""Prompts as experts: the space of queries is cut into regions, each with demonstrations and an instruction of its own,
and a query is asked with those of its region (Wang et al., 2024, Mixture-of-Prompts, arXiv:2407.00256).

Shape legend: N texts, D width of an embedding, K regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.saving import writing

Embed = Callable[[Sequence[str]], NDArray[Any]]
"""Texts to [N, D]."""
Score = Callable[[str, str], float]
"""What a model makes of (prompt, answer), the larger the better; see `likelihood`."""
_FILE = "prompts.json"
_TOP = 4  # instructions that every region may choose among, beside none
_DEARER = 0.02  # what one more region must save of the inertia


class Demo(pydantic.BaseModel, extra="forbid"):
    """A query with its answer."""

    query: str
    answer: str


class Region(pydantic.BaseModel, extra="forbid"):
    """One expert: where it is, and what it says before a query."""

    centre: list[float]
    demos: list[Demo]
    instruction: str = ""

    def prompt(self, query: str) -> str:
        """The whole text to be answered."""
        shown = [f"Input: {each.query}\nOutput: {each.answer}" for each in self.demos]
        return "\n\n".join([*([self.instruction] if self.instruction else []), *shown, f"Input: {query}\nOutput:"])


class _Stored(pydantic.BaseModel, extra="forbid"):
    regions: list[Region]


class PromptMixture:
    """Routes a query to the region with the nearest centre.

    Args:
        regions: at least one.
        embed: how queries are embedded; the same as when the centres were made.
    """

    def __init__(self, regions: Sequence[Region], embed: Embed):
        if not regions:
            raise RosterError("a mixture of prompts needs at least one region")
        self.regions, self.embed = list(regions), embed
        self.centres_KD = np.array([each.centre for each in regions])

    def route(self, queries: Sequence[str]) -> list[int]:
        """The region of each query."""
        rows_ND = np.asarray(self.embed(queries), dtype=float)
        if rows_ND.shape[1] != self.centres_KD.shape[1]:
            raise RosterError(
                f"queries are embedded in {rows_ND.shape[1]} dimensions, and the centres of the regions have "
                f"{self.centres_KD.shape[1]}: take the encoder that they were made with"
            )
        return [int(k) for k in ((rows_ND[:, None] - self.centres_KD) ** 2).sum(2).argmin(1)]

    def prompts(self, queries: Sequence[str]) -> list[str]:
        """What a model is to be asked for each query."""
        routes = self.route(queries)
        return [self.regions[k].prompt(query) for k, query in zip(routes, queries, strict=True)]

    def save(self, folder: str | Path) -> None:
        """Writes centres, demonstrations and instructions as JSON."""
        with writing(folder) as new:
            text = _Stored(regions=self.regions).model_dump_json(indent=1)
            (new / _FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, embed: Embed) -> PromptMixture:
        """Reads it back; RosterError when the file is none of these."""
        path = Path(folder) / _FILE
        try:
            stored = _Stored.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, pydantic.ValidationError) as error:
            raise RosterError(f"{str(path)!r} is no mixture of prompts: {str(error).splitlines()[0]}") from None
        return cls(stored.regions, embed)


def build_prompts(
    demos: Sequence[tuple[str, str]],
    validation: Sequence[tuple[str, str]],
    embed: Embed,
    score: Score,
    propose: Callable[[Sequence[tuple[str, str]]], Sequence[str]] = lambda others: (),
    regions: int | None = None,
    seed: int = 0,
) -> PromptMixture:
    """Finds regions, their demonstrations, and the instruction that goes best with these.

    Demonstrations are clustered by k-means, and cut or repeated to as many per region as there would be if all regions
    were alike. For each region, `propose` writes instructions from the demonstrations of the others, which make good
    what its own do not show. The four best of all that were proposed, alone, and no instruction, are the candidates.
    Region by region the candidate is taken that does best with the region's demonstrations on the validation queries
    that are routed there.

    Args:
        demos: (query, answer) pairs to show.
        validation: others, to choose by.
        embed: see `Embed`.
        score: see `Score`.
        propose: instructions from demonstrations.
        regions: K; None for the one of 2 to 10 with the least `inertia(K) / inertia(1) + 0.02 K`.
        seed: of k-means.

    Raises:
        RosterError: fewer than two demonstrations, or more regions than demonstrations.
    """
    if len(demos) < 2 or not validation:
        raise RosterError("a mixture of prompts needs at least two demonstrations and one validation query")
    rows_ND = np.asarray(embed([query for query, _ in demos]), dtype=float)
    labels_N, centres_KD = _clustered(rows_ND, regions, seed)
    K = len(centres_KD)
    share = max(1, len(demos) // K)
    made = []
    for k in range(K):
        own = [Demo(query=q, answer=a) for (q, a), label in zip(demos, labels_N, strict=True) if label == k]
        made.append(Region(centre=centres_KD[k].tolist(), demos=(own * -(-share // len(own)))[:share]))
    mixture = PromptMixture(made, embed)
    proposed: list[str] = []
    for k in range(K):
        proposed += propose([demo for demo, label in zip(demos, labels_N, strict=True) if label != k])
    pool = list(dict.fromkeys(text for text in proposed if text))
    alone = {text: _mean(score, Region(centre=[], demos=[], instruction=text), validation) for text in pool}
    candidates = ["", *sorted(pool, key=lambda text: -alone[text])[:_TOP]]
    routes = mixture.route([query for query, _ in validation])
    for k, region in enumerate(made):
        here = [pair for pair, route in zip(validation, routes, strict=True) if route == k]
        if here and len(candidates) > 1:
            tried = [region.model_copy(update={"instruction": text}) for text in candidates]
            mixture.regions[k] = max(tried, key=lambda each: _mean(score, each, here))
    return mixture


def likelihood(model: Any, tokenizer: Any) -> Score:
    """Scores an answer by the mean logarithm of its tokens' probabilities behind the prompt, under a causal model."""

    @torch.no_grad()
    def score(prompt: str, answer: str) -> float:
        before = list(tokenizer(prompt)["input_ids"])
        told = list(tokenizer(" " + answer, add_special_tokens=False)["input_ids"])
        ids_1S = torch.tensor([before + told], device=model.device)
        logits_SV = model(input_ids=ids_1S, use_cache=False).logits[0, len(before) - 1 : -1].float()
        return float(logits_SV.log_softmax(1).gather(1, ids_1S[0, len(before) :, None]).mean())

    return score


def _mean(score: Score, region: Region, pairs: Sequence[tuple[str, str]]) -> float:
    return sum(score(region.prompt(query), answer) for query, answer in pairs) / len(pairs)


def _clustered(rows_ND: NDArray[Any], regions: int | None, seed: int) -> tuple[list[int], NDArray[Any]]:
    from sklearn.cluster import KMeans  # as elsewhere, only where something is clustered

    most = len(np.unique(rows_ND, axis=0))
    if regions is not None and not 1 <= regions <= most:
        raise RosterError(f"{most} different demonstrations cannot be cut into {regions} regions")
    counts = range(2, min(10, most) + 1) if regions is None else (regions,)
    fits = [KMeans(n_clusters=K, n_init=10, random_state=seed).fit(rows_ND) for K in counts or (1,)]
    whole = float(((rows_ND - rows_ND.mean(0)) ** 2).sum()) or 1.0
    best = min(fits, key=lambda fit: fit.inertia_ / whole + _DEARER * len(fit.cluster_centers_))
    return best.labels_.tolist(), best.cluster_centers_
