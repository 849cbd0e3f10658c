"""Ensembles that learn one task after the other and store no examples; each composes to what makes one.

- seed-cl: `(encoder) -> SelectiveExperts`. A new task trains the one expert in whose features its classes, as
  Gaussians, are the furthest apart (mean KL over ordered pairs): `(1 - a) CE + a MSE(features, features before)`. An
  example's score for a class is the mean over the experts that know it of `softmax(log density / temperature)`.
- dee-online-ensemble-cl: `(width of the features) -> OnlineEnsemble`. z of length one, c_j = z . k_j, s the soft choice
  of the k nearest of M keys; `out = sum_j s_j c_j (s_j h_j(z)) / sum_j s_j c_j`, h_j = tau tanh(W_j z / tau), trained
  by `-mean out_y + mean sum_j (1 - c_j) s_j` in one pass.

Shapes: Gaussians [D] and [D, D] per class and expert; keys [M, D], learners [C, M, D].
Trains: one whole encoder a task; keys and the learners that are chosen.
Source: see each recipe.
Differences: seed-cl: no flipped images among the examples, no shared trunk, a head without bias, and `shrink` of their
    mean variance on the covariances' diagonals, so that few examples make a Gaussian. dee: the transport that chooses
    is solved exactly, by one threshold per row, where the authors run 400 iterations of Sinkhorn's; keys are drawn from
    a normal; the learners' optimiser (Adam, 0.01) is ours, the keys' is theirs. Both take any features or encoder in
    torch, those of a language model's too.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from roster.continual import OnlineEnsemble, SelectiveExperts
from roster.recipes.recipe import Recipe

EVIDENCE = "tests/continual/test_ensembles.py"


def seed_cl(
    experts: int = 5,
    epochs: int = 200,
    later_epochs: int = 100,
    rate: float = 0.05,
    alpha: float = 0.99,
    temperature: float = 3.0,
    seed: int = 0,
) -> Callable[[nn.Module], SelectiveExperts]:
    """SEED.

    Args:
        experts: K.
        epochs, later_epochs: for the first K tasks, and for those after them.
        rate: of learning.
        alpha: how strongly an expert that is trained again is held to its features.
        temperature: of the softmax over log densities.
        seed: of heads and of the order of examples.
    """

    def make(encoder: nn.Module) -> SelectiveExperts:
        return SelectiveExperts(
            encoder,
            experts,
            epochs=epochs,
            later_epochs=later_epochs,
            rate=rate,
            alpha=alpha,
            temperature=temperature,
            seed=seed,
        )

    return make


def dee(
    learners: int = 128,
    k: int = 16,
    tau: float = 1.0,
    epsilon: float = 5e-4,
    rate: float = 1e-2,
    key_rate: float = 5e-5,
    seed: int = 0,
) -> Callable[[int], OnlineEnsemble]:
    """DE&E.

    Args:
        learners: M.
        k: of them answer.
        tau: bound of a learner's output.
        epsilon: of the soft choice; 0 for the hard one (Encoders and Ensembles).
        rate: of the learners.
        key_rate: of the keys; 0 leaves them where they are.
        seed: of keys and first weights.
    """
    return lambda width: OnlineEnsemble(width, learners, k, tau, epsilon, rate, key_rate, seed)


RECIPES = (
    Recipe(
        slug="seed-cl",
        title="SEED (selectively trained experts)",
        source="Rypesc et al., 2024, Divide and not forget: Ensemble of selectively trained experts in Continual "
        "Learning, arXiv:2401.10191",
        compose=seed_cl,
        trains="everything",
        batch_invariant=True,
        claim="Training only the expert whose new classes overlap least forgets less than training one or any, "
        "without stored examples.",
        evidence=EVIDENCE,
        kind="study",
    ),
    Recipe(
        slug="dee-online-ensemble-cl",
        title="DE&E (online ensemble)",
        source="Wojcik et al., 2023, Neural Architecture for Online Ensemble Continual Learning, arXiv:2211.14963",
        compose=dee,
        trains="everything",
        batch_invariant=True,
        claim="An ensemble chosen softly and trained end to end beats one chosen hard, most of all when it is small.",
        evidence=EVIDENCE,
        kind="study",
    ),
)
