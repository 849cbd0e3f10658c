"""PSEC: skills are laid over the base in proportions that depend on the situation; a small network says which.

Equation: alpha = W relu(U q + b) + c, q the mean hidden state of the prompt; y = W x + sum_e alpha_e scale_e B_e A_e x,
    the same alpha at every layer and token; the loss pulls the mean of alpha to `target`, and that of `own` to
    2 `target`.
Shapes: one network for the whole model, [F, D] and [E, F].
Trains: the network alone; skills are frozen, so that a new one leaves the others as they are.
Siblings: `sa-mdkif` has weights that sum to one; `x-lora` weighs per token and layer.
Source: Liu et al., 2025, "Skill Expansion and Composition in Parameter Space", arXiv:2502.05932; the authors'
    repository is ltlhuuu/PSEC.
Differences: the source's situation is the state of a control task and its base a diffusion policy; here it is the
    prompt, read once by the base alone, and the base a language model. Weights begin at `target`.
"""

from __future__ import annotations

from roster.adapters.mixing import Mixing, Site
from roster.adapters.prompt_gate import PromptGate
from roster.balance import MeanWeight
from roster.errors import RosterError, nearest
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Decided
from roster.select import All


def psec(
    hidden: int = 256, target: float = 0.5, pull: float = 0.01, own: str | None = None, layer: int | None = None
) -> Mixing:
    """Composition of skills in parameter space.

    Args:
        hidden: F, width of the network's hidden layer.
        target: of the mean weight.
        pull: coefficient of the loss that holds it there.
        own: name of the skill of the task at hand, whose mean weight is held at twice the target; None for none.
        layer: behind which block prompts are read, counted from 1; None for the last.
    """

    def router(site: Site) -> Router:
        if own is not None and own not in site.experts:
            raise RosterError(f"psec: no expert is called {own!r}: {nearest(own, site.experts)}")
        index = None if own is None else site.experts.index(own)
        penalty = MeanWeight(target, pull, index, 2 * target)
        return Router(Decided(site.num_experts), All("none"), [penalty])

    return Mixing(
        router,
        at="model",
        head=lambda whole: PromptGate(
            whole.width, whole.num_experts, whole.depth, layer, hidden, "none", target, "psec"
        ),
        head_reads="prompt",
        trains=frozenset({"router"}),
    )


RECIPE = Recipe(
    slug="psec",
    title="PSEC (parametric skill expansion and composition)",
    source="Liu et al., 2025, Skill Expansion and Composition in Parameter Space, arXiv:2502.05932",
    compose=psec,
    trains="router",
    batch_invariant=True,
    claim="Proportions that depend on the situation solve what needs different skills in different places.",
    evidence="tests/recipes/test_transfer.py",
    needs=("training",),
)
