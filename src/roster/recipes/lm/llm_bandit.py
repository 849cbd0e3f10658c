"""LLM Bandit: one policy for every preference between quality and cost, learned from the answers of the chosen models.

Equation: model = argmax_m  q(x, i_m) - w c_m(x); q is linear in the products of prompt x and the model's identity i_m
    and in x per model, learned by Thompson sampling while w is drawn anew for every prompt.
Shapes: see `roster.lm.online.identity`.
Trains: the regression, online, from one score per prompt; the identities from a few probes answered by all.
Siblings: the gateway's policy `thompson` has a regression per model and one fixed w; `lm-logistic` sees all scores.
Source: Li, 2025, "LLM Bandit: Cost-Efficient LLM Generation via Preference-Conditioned Dynamic Routing",
    arXiv:2502.02743.
Differences: the source trains a network by policy gradient on a vector of rewards, with identities from an
    item-response model; here reward is scalarised after the estimate, which makes the policy linear and lets it learn
    online from partial feedback. Recalled from the paper's abstract, not compared with its code.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.online import IdentityBandit
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def llm_bandit(
    width: int = 16, probes: int = 50, exploration: float = 0.2, cost_weight: float = 0.0, encoder: str = "tfidf"
) -> Routing:
    """LLM Bandit by linear Thompson sampling.

    Args:
        width: dimensions of the prompt's vector.
        probes: training prompts that every model answers.
        exploration: width of the draws.
        cost_weight: the preference when deciding: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    bandit = IdentityBandit(width, probes=probes, exploration=exploration, encoder=named_encoder(encoder))
    return Routing(bandit, Weights(cost_weight))


RECIPE = Recipe(
    slug="llm-bandit",
    title="LLM Bandit",
    source="Li, 2025, LLM Bandit: Cost-Efficient LLM Generation via Preference-Conditioned Dynamic Routing, "
    "arXiv:2502.02743",
    compose=llm_bandit,
    trains="router",
    batch_invariant=True,
    claim="One policy serves every preference better than any fixed model, and routes sensibly to a model added later.",
    evidence="docs/results/claims.md",
    needs=("training",),
    kind="lm",
)
