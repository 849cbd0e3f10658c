"""Label-free quality from embedded answers: whose answers lie close to everybody's is close to the truth.

Smoothie: the embedded answer z_m is the unknown true one plus independent noise of size v_m, so that
E|z_i - z_j|^2 = v_i + v_j, and every triple gives v_i = (d_ij + d_ik - d_jk) / 2; the estimate is the mean over all
triples. Locally: distances averaged over the most similar prompts instead of all of them.

Two regimes. `estimate` foretells from sample prompts whose answers are on record, before anybody is asked: routing.
`test_time` reads the answers that all models gave to the very prompts in question, and says whose to keep: selection,
which is what the authors' code does, and where every model is paid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.encode import Encoder, TfIdf
from roster.lm.estimate.agreement import answer_ids
from roster.lm.estimate.base import Embedding
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.knn import KNN
from roster.lm.records import Matrix, Records


class Smoothie(KNN):
    """Noise of every model around a prompt; quality is 1 minus noise relative to the largest distance there can be.

    Args:
        neighbours: prompts over which distances are averaged; 0 for all (Smoothie-global).
        answers: "text" embeds the answers by TF-IDF, "exact" only asks whether they are equal; `fit_embedded` takes
            vectors of the caller's.
        encoder, expense: parts.
    """

    fitted = (*Embedding.fitted, "x_ND", "distance_NMM")

    def __init__(
        self,
        neighbours: int = 20,
        answers: str = "text",
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(neighbours=neighbours, encoder=encoder, expense=expense)
        if answers not in ("text", "exact"):
            raise RosterError(f"answers are compared as 'text' or 'exact', not {answers!r}")
        self.answers = answers

    def fit(self, records: Records) -> Smoothie:
        """Needs answers, ignores scores."""
        if records.answer_NM is None:
            raise RosterError(f"records {records.name!r} have no answers to compare")
        return self._fit(records, distances(records.answer_NM, self.answers))

    def fit_embedded(self, records: Records, z_NMD: NDArray[np.floating]) -> Smoothie:
        """Like `fit`, for answers that the caller has embedded, such as by a sentence encoder; reads no texts.

        Args:
            records: whose answers they are.
            z_NMD: one vector per prompt and model, of any width and scale.

        Raises:
            RosterError: the vectors are not those of the records, or not finite, or there are fewer than three models.
        """
        if z_NMD.ndim != 3 or z_NMD.shape[:2] != records.score_NM.shape:
            raise RosterError(f"vectors of shape {z_NMD.shape} are not one per prompt and model of {records.name!r}")
        if not np.isfinite(z_NMD).all():
            raise RosterError(f"some of the embedded answers of {records.name!r} are not finite")
        distance_NMM = _square_distances(z_NMD)
        return self._fit(records, (distance_NMM / max(float(distance_NMM.max()), 1e-12)).clip(0, 1).astype(np.float32))

    def _fit(self, records: Records, distance_NMM: NDArray[np.float32]) -> Smoothie:
        if len(records.models) < 3:
            raise RosterError("Smoothie compares triples of models: it needs at least 3")
        self.models = self.first_models = records.models
        self.blend_AM = self.level_A = None
        self.x_ND = self.encoder.fit(records.prompts).encode(records.prompts)
        self.distance_NMM = distance_NMM
        self.cost_NM = None
        self.expense.fit(records)
        return self

    @staticmethod
    def test_time(prompts_ND: NDArray[np.floating], answers_NMD: NDArray[np.floating], neighbours: int = 20) -> Matrix:
        """The authors' regime: weights of every model on prompts whose answers are all there, [N, M].

        Keep the answer of the largest weight. Neighbours are sought among the prompts themselves, each its own first.

        Args:
            prompts_ND: the prompts' vectors.
            answers_NMD: the answers' vectors.
            neighbours: prompts over which distances are averaged; 1 for the prompt alone, 0 for all.

        Returns:
            weights in proportion to 1 / v, their sizes summing to one over a prompt's models. As in the source, a
            negative estimate of the noise v makes a negative weight; the source divides by the plain sum, which turns
            the order around where that is negative, and this does not.

        Raises:
            RosterError: vectors that do not belong together, or fewer than three models.
        """
        if answers_NMD.ndim != 3 or len(prompts_ND) != len(answers_NMD) or answers_NMD.shape[1] < 3:
            raise RosterError(
                f"Smoothie compares the answers of at least 3 models to each prompt: {len(prompts_ND)} prompts and "
                f"answers of shape {answers_NMD.shape} are not that"
            )
        distance_NMM = _square_distances(answers_NMD)
        if neighbours == 0:
            near_NMM = np.repeat(distance_NMM.mean(0, keepdims=True), len(prompts_ND), axis=0)
        else:
            square_N = (prompts_ND.astype(float) ** 2).sum(1)
            far_NN = square_N[:, None] + square_N - 2 * prompts_ND @ prompts_ND.T
            np.fill_diagonal(far_NN, -1.0)  # itself first, whatever rounding says
            near_Nk = far_NN.argsort(1, kind="stable")[:, :neighbours]
            near_NMM = np.stack([distance_NMM[at].mean(0) for at in near_Nk])
        noise_NM = np.stack([noise(each) for each in near_NMM])
        weight_NM = 1 / np.where(np.abs(noise_NM) < 1e-12, 1e-12, noise_NM)
        return np.asarray(weight_NM / np.abs(weight_NM).sum(1, keepdims=True))

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        if self.neighbours == 0:
            quality_M = 1 - noise(self.distance_NMM.mean(0, dtype=float))
            quality_NM = np.tile(quality_M, (len(x_ND), 1))
            return quality_NM, np.full(quality_NM.shape, len(self.x_ND) ** -0.5)
        near_NMM = np.stack([self.distance_NMM[at].mean(0, dtype=float) for at in self.nearest(x_ND)])
        quality_NM = 1 - np.stack([noise(each) for each in near_NMM])
        return quality_NM, np.full(quality_NM.shape, self.neighbours**-0.5)


def distances(answer_NM: NDArray[np.object_], how: str) -> NDArray[np.float32]:
    """Squared distance between every two answers to a prompt, scaled to [0, 1]: [N, M, M]."""
    N, M = answer_NM.shape
    if how == "exact":
        ids_NM = answer_ids(answer_NM)
        same_NMM = (ids_NM[:, :, None] == ids_NM[:, None]) & (ids_NM[:, :, None] >= 0)
    else:
        texts = ["" if answer is None else str(answer) for answer in answer_NM.reshape(-1)]
        z_NMD = TfIdf().fit(texts).encode(texts).reshape(N, M, -1)
        same_NMM = np.einsum("nid,njd->nij", z_NMD, z_NMD).clip(-1, 1)
    distance_NMM: NDArray[np.float32] = (1 - same_NMM.astype(np.float32)).clip(0, 1)
    distance_NMM[:, np.arange(M), np.arange(M)] = 0
    return distance_NMM


def noise(distance_MM: Matrix) -> Matrix:
    """v_m from mean squared distances: the mean of (d_ij + d_ik - d_jk) / 2 over all pairs j < k of others."""
    M = len(distance_MM)
    total = distance_MM.sum() / 2
    row_M = distance_MM.sum(1)
    pairs = (M - 1) * (M - 2) / 2
    # Every d_ij is in M - 2 of i's triples; the pairs without i sum to the total less i's own row.
    noise_M: Matrix = ((M - 2) * row_M - (total - row_M)) / (2 * pairs)
    return noise_M


def _square_distances(z_NMD: NDArray[np.floating]) -> Matrix:
    """Squared distance between every two models' vectors on each prompt, [N, M, M]."""
    z_NMD = z_NMD.astype(float)
    square_NM = (z_NMD**2).sum(2)
    distance_NMM = square_NM[:, :, None] + square_NM[:, None] - 2 * np.einsum("nid,njd->nij", z_NMD, z_NMD)
    own = np.arange(z_NMD.shape[1])
    distance_NMM[:, own, own] = 0
    return np.asarray(distance_NMM)
