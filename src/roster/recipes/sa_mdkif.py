"""SA-MDKIF: skills are learned one by one and frozen; a router learns from downstream data how to weigh them.

Equation: w = softmax(W q + c), q the mean hidden state of the prompt; y = W x + sum_e w_e scale_e B_e A_e x, the same w
    at every layer and token.
Shapes: one gate for the whole model, [E, D].
Trains: the gate alone.
Siblings: `psec` has weights of any size, from a deeper network.
Source: Xu et al., 2024, "SA-MDKIF: A Scalable and Adaptable Medical Domain Knowledge Injection Framework for Large
    Language Models", arXiv:2402.00474.
Differences: written from the abstract: what the router reads, and whether it mixes all skills, is not said there;
    here it reads the prompt's mean and mixes all. The source's skills are AdaLoRA adapters of medical tasks; folders
    of PEFT's AdaLoRA are read as the LoRA that they are once trained.
"""

from __future__ import annotations

from roster.adapters.mixing import Mixing
from roster.adapters.prompt_gate import PromptGate
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Decided
from roster.select import All


def sa_mdkif(layer: int | None = None) -> Mixing:
    """A router over frozen skills.

    Args:
        layer: behind which block prompts are read, counted from 1; None for the last.
    """
    return Mixing(
        lambda site: Router(Decided(site.num_experts), All("none")),
        at="model",
        head=lambda whole: PromptGate(whole.width, whole.num_experts, whole.depth, layer, needed_by="sa-mdkif"),
        head_reads="prompt",
        trains=frozenset({"router"}),
    )


RECIPE = Recipe(
    slug="sa-mdkif",
    title="SA-MDKIF",
    source="Xu et al., 2024, SA-MDKIF: A Scalable and Adaptable Medical Domain Knowledge Injection Framework for Large "
    "Language Models, arXiv:2402.00474",
    compose=sa_mdkif,
    trains="router",
    batch_invariant=True,
    claim="A router over frozen skills beats the best single skill and their average, on unseen tasks too.",
    evidence="tests/recipes/test_transfer.py",
    needs=("training",),
)
