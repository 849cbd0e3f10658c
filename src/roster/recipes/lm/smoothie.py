"""Smoothie: quality without labels, from how far each model's answers lie from those of the others.

Equation: E|z_i - z_j|^2 = v_i + v_j for embedded answers z; v_i = mean over pairs (j, k) of
    (d_ij + d_ik - d_jk) / 2; the model with the least v is chosen.
Shapes: distances [N, M, M]; one v per model, around each prompt or overall.
Trains: nothing; it reads answers to sample prompts, no scores.
Siblings: agreement (`roster.lm.estimate.agreement`) for answers that are either equal or not.
Source: Guha, Chen, Chow, Khare, Ré, 2024, "Smoothie: Label Free Language Model Routing", arXiv:2412.04692.
Simulated models: where embedded answers are the true one plus independent noise, as the source assumes, the claim holds
    at every seed. Where answers are right or wrong and compared as equal or not, two models agree with the product of
    their chances and not as assumed: estimates correlate with the truth by 0.88 to 0.93, and routing beats the best
    single model at three seeds of five.
Recorded answers, which are right or wrong: below the look-up by data set or not better than it (docs/results/lm.md).
Regimes: the composition routes: it foretells from sample prompts whose answers are on record. The authors' code
    selects: every model answers the prompt in question, and one answer is kept; that is `Smoothie.test_time`.
Differences: answers are embedded by TF-IDF unless the caller brings vectors (`Smoothie.fit_embedded`); the paper uses a
    sentence encoder. Quality is given as 1 - v rather than 1 / v, which ranks models alike and stays within [0, 1].
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import Smoothie
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def smoothie(neighbours: int = 20, answers: str = "text", cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """Smoothie.

    Args:
        neighbours: prompts over which distances are averaged; 0 for all (Smoothie-global).
        answers: "text" embeds the answers, "exact" only asks whether they are equal.
        cost_weight: quality that one unit of the currency is worth.
        encoder: of the prompts; `tfidf`, `minilm`, or a sentence-transformers model.
    """
    return Routing(Smoothie(neighbours, answers, encoder=named_encoder(encoder)), Weights(cost_weight))


RECIPE = Recipe(
    slug="smoothie",
    title="Smoothie",
    source="Guha et al., 2024, Smoothie: Label Free Language Model Routing, arXiv:2412.04692",
    compose=smoothie,
    trains="nothing",
    batch_invariant=True,
    claim="Without labels, finds who is good at what (the best model on 9 of 14 tasks in the paper), and routing "
    "around each prompt beats the best single model: on simulated models whose embedded answers are the truth plus "
    "noise, not always where answers are right or wrong.",
    evidence="docs/results/claims.md",
    needs=("training", "answers"),
    kind="lm",
)
