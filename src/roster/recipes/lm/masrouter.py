"""MasRouter: a prompt gets a way of working together, then role by role, then a model for every role.

Equation: F = F_mode F_role F_model, trained by policy gradient on utility - price * cost.
Shapes: prompts [N]; a configuration has one role and one model per seat of its mode.
Trains: the controller, from the outcomes of the configurations that it tries.
Siblings: `llm-bandit` chooses one model and nothing else; cascades ask one model after the other.
Source: Yue, Zhang, Liu, Wan, Wang, Cheng, Qi, 2025, "MasRouter: Learning to Route LLMs for Multi-Agent Systems",
    arXiv:2502.11133.
Differences: compared with the authors' released code. A mode fixes the number of agents, where the source predicts it
    from the prompt; options are learned vectors, where the source encodes their descriptions, and so takes new ones
    untrained; the state is a sum, where the source has variational latents, with their losses and a classifier of the
    task trained along. Roles and models alternate seat by seat, where the source chooses all roles first, and then all
    models from one distribution. The gains of other draws are the baseline and entropy is rewarded, where the source
    has neither; it also learns from far fewer plays, while the check's controller has tried 72,000. The agents are the
    caller's: `play` runs them.
Saving: `roster.lm.online.cascaded_folder`.
"""

from __future__ import annotations

from collections.abc import Callable

from roster.lm.encode import encoder as named_encoder
from roster.lm.online.cascaded import Cascaded
from roster.recipes.recipe import Recipe


def masrouter(width: int = 32, encoder: str = "tfidf", seed: int = 0) -> Callable[..., object]:
    """`(modes, roles, models) -> Cascaded`; see `roster.lm.online.cascaded`.

    Args:
        width: of the controller's state.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
        seed: of its weights and draws.
    """
    return lambda modes, roles, models: Cascaded(modes, roles, models, named_encoder(encoder), width, seed)


RECIPE = Recipe(
    slug="masrouter",
    title="MasRouter",
    source="Yue et al., 2025, MasRouter: Learning to Route LLMs for Multi-Agent Systems, arXiv:2502.11133",
    compose=masrouter,
    trains="router",
    batch_invariant=True,
    claim="On simulated agents, deciding mode, roles and models per prompt gains more than the best fixed "
    "configuration and than choosing the model alone, near the best configuration of every type of prompt.",
    evidence="docs/results/claims.md",
    kind="study",
)
