"""The rungs that read a prompt's vector, plainest first; every estimator is the library's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from evidence.ladder.answers import Agreeing, Judged, Voting
from evidence.ladder.protocol import Contender, Router
from roster.lm.decide import Weights
from roster.lm.encode import Encoder
from roster.lm.estimate import (
    IRT,
    KNN,
    Boosted,
    ClusterRanks,
    DatasetTable,
    Domains,
    Ensemble,
    Estimator,
    KMeansTable,
    Leaderboard,
    Logistic,
    Mean,
    ModelVectors,
)
from roster.lm.records import Records
from roster.lm.routing import Routing

Vectors = Callable[[str], Encoder]
"""The fold's encoder of a name, see `vectors`."""


@dataclass(frozen=True)
class Rung:
    """One way to route.

    Attributes:
        slug: its name in the results.
        words: what it is, for a reader.
        make: a contender from the fold's vectors.
        collections: where it can be tried; everywhere unless named.
        label: whether it is told the data set, as only the yardstick is.
    """

    slug: str
    words: str
    make: Callable[[Vectors], Contender]
    collections: tuple[str, ...] = field(default=())
    label: bool = False


class Stacked(Router):
    """A router whose ensemble is fitted once per fold, whatever its rule: fitting is most of the ladder's time."""

    _fitted: ClassVar[dict[int, Estimator]] = {}

    def fit(self, records: Records) -> Stacked:
        """See `Contender`."""
        key = hash(records.prompts)
        if key not in self._fitted:
            self._fitted[key] = self.routing.estimator.fit(records)
        self.routing.estimator = self._fitted[key]
        return self


def _router(estimator: Estimator, caution: float = 0.0) -> Router:
    return Router(Routing(estimator, Weights(caution=caution)))


def _members(vectors: Vectors) -> tuple[Estimator, ...]:
    """Estimators that err in different ways."""
    both, figured = vectors("both"), vectors("minilm+figures")
    return (
        Domains(soft=True, encoder=both),
        KNN(60, encoder=both),
        Logistic(0.3, encoder=figured),
        Boosted(encoder=figured, dimensions=48),
        IRT(encoder=figured),
    )


RUNGS = (
    Rung("lookup", "look-up by data set: it is told the label", lambda v: _lookup(), label=True),
    Rung("mix", "static mix of single models: it does not read the prompt", lambda v: _router(Mean())),
    Rung("kmeans-tfidf", "k-means table on TF-IDF (today's)", lambda v: _router(KMeansTable(encoder=v("tfidf")))),
    Rung("knn-tfidf", "40 nearest neighbours on TF-IDF (today's)", lambda v: _router(KNN(encoder=v("tfidf")))),
    Rung("kmeans-minilm", "k-means table on MiniLM", lambda v: _router(KMeansTable(encoder=v("minilm")))),
    Rung("knn-minilm", "40 nearest neighbours on MiniLM", lambda v: _router(KNN(encoder=v("minilm")))),
    Rung("logistic-minilm", "logistic regression on MiniLM", lambda v: _router(Logistic(0.3, encoder=v("minilm")))),
    Rung("irt", "item response theory on MiniLM", lambda v: _router(IRT(encoder=v("minilm")))),
    Rung("embedllm", "EmbedLLM's factorisation on MiniLM", lambda v: _router(ModelVectors(encoder=v("minilm")))),
    Rung("p2l", "prompt-to-leaderboard on MiniLM", lambda v: _router(Leaderboard(encoder=v("minilm")))),
    Rung("avengers", "ranks in the nearest clusters (Avengers) on MiniLM", lambda v: _router(_ranks(v))),
    Rung(
        "avengers-vote",
        "the same with three models that answer and vote, all of them paid",
        lambda v: Voting(_ranks(v)),
        ("zeroeval",),
    ),
    Rung("boosted", "boosted trees on figures of the form and MiniLM", lambda v: _router(_boosted(v))),
    Rung("label-tfidf", "the label inferred from TF-IDF, then looked up", lambda v: _router(_labels(v, "tfidf"))),
    Rung("label-both", "the label inferred from TF-IDF and MiniLM", lambda v: _router(_labels(v, "both"))),
    Rung("ensemble", "five estimators, stacked", lambda v: Stacked(Routing(Ensemble(_members(v)), Weights()))),
    Rung(
        "ensemble-doubt",
        "the same, less half a deviation where they disagree",
        lambda v: Stacked(Routing(Ensemble(_members(v)), Weights(caution=0.5))),
    ),
    Rung(
        "agreeing", "cheap models' answers: where they agree nobody else is asked", lambda v: Agreeing(), ("zeroeval",)
    ),
    Rung(
        "judged",
        "the weak model's answer judged, beside the strong one's chance",
        lambda v: Judged(v("both")),
        ("routellm-gsm8k",),
    ),
)


def _lookup() -> Router:
    return Router(Routing(DatasetTable(), Weights(), sees_dataset=True))


def _ranks(vectors: Vectors) -> ClusterRanks:
    return ClusterRanks(encoder=vectors("minilm"))


def _boosted(vectors: Vectors) -> Boosted:
    return Boosted(encoder=vectors("minilm+figures"), dimensions=48)


def _labels(vectors: Vectors, name: str) -> Domains:
    return Domains(soft=True, encoder=vectors(name))
