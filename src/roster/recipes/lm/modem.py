"""MoDEM: a classifier names the prompt's domain, every domain has its model.

Equation: domain = argmax p(domain | x); model = the domain's best by mean score (less price).
Shapes: probabilities [N, G] over G domains, a table [G, M].
Trains: the classifier, on the data-set labels of the records.
Siblings: Composition of Experts weighs all categories by their probability; the look-up by data set is told the domain.
Source: Simonds, Kurniawan, Lau, 2024, "MoDEM: Mixture of Domain Expert Models", arXiv:2410.07490.
Recorded answers: not better than the look-up by data set (docs/results/lm.md).
Differences: logistic regression over a frozen encoder in place of DeBERTa-v3; the expert of a domain is found from
    records, where the paper assigns it by hand.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import Domains
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def modem(cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """MoDEM.

    Args:
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    return Routing(Domains(soft=False, encoder=named_encoder(encoder)), Weights(cost_weight))


RECIPE = Recipe(
    slug="modem",
    title="MoDEM",
    source="Simonds et al., 2024, MoDEM: Mixture of Domain Expert Models, arXiv:2410.07490",
    compose=modem,
    trains="router",
    batch_invariant=True,
    claim="On simulated models, sending each prompt to its domain's model beats a single general model of the same "
    "cost.",
    evidence="docs/results/claims.md",
    needs=("training", "tasks"),
    kind="lm",
)
