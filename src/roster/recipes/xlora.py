"""X-LoRA: the base reads the tokens once alone; a small head turns what it saw into weights for every layer.

Equation: h = last hidden states of the base; lambda_{l,e} = softmax_e(MLP(h)_{l,e});
    y_l = W_l x + sum_e lambda_{l,e} scale_e B_e A_e x.
Shapes: the head's output is [T, N, E] for N routed linear layers.
Trains: the head only.
Siblings: roster's other per-token recipes look at the layer's own input and need one pass.
Source: Buehler and Buehler, 2024, "X-LoRA: Mixture of Low-Rank Adapter Experts, a Flexible Framework for Large
    Language Models with Applications in Protein Mechanics and Design", arXiv:2402.07148.
Claim: shown by its rule on the pocket models, with one trained head: clearly on held-in prompts (56 % against 20 %),
    but on composed ones by 2.2 % against 0.3 %, which is of no use to anybody.
Differences: both passes keep a KV cache of their own, so generation costs two passes per token instead of two passes
    over everything so far. Equal to PEFT's X-LoRA given the same head, for a pass without padding and cache (tests).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.adapters.mixing import Mixing, Site
from roster.context import Context
from roster.errors import RosterError
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import FromMemory
from roster.select import All, TopK

_KEY = "x-lora"


class XLoraHead(nn.Module):
    """The classifier: `depth` linear layers with ReLU between them, from the last hidden state to N * E logits.

    Shape legend: B batch rows, S tokens, D width, N linear sites, E experts.
    """

    def __init__(self, width: int, hidden: int, depth: int, num_sites: int, num_experts: int):
        super().__init__()
        sizes = [width] + [hidden] * (depth - 1)
        layers = [part for i, o in itertools.pairwise(sizes) for part in (nn.Linear(i, o), nn.ReLU())]
        self.layers = nn.Sequential(*layers)
        bound = sizes[-1] ** -0.5  # as nn.Linear begins
        self.weight_NED = nn.Parameter(torch.empty(num_sites, num_experts, sizes[-1]).uniform_(-bound, bound))
        self.bias_NE = nn.Parameter(torch.empty(num_sites, num_experts).uniform_(-bound, bound))

    def forward(self, hidden_BSD: Tensor, context: Context) -> Tensor:
        """Leaves the logits [T, N, E] in memory, and returns its input."""
        x_BSD = self.layers(hidden_BSD.to(self.weight_NED.dtype))
        logits = F.linear(x_BSD, self.weight_NED.flatten(0, 1), self.bias_NE.flatten())
        context.memory[_KEY] = logits.view(-1, *self.bias_NE.shape)
        return hidden_BSD


def xlora(
    depth: int = 1,
    hidden: int = 2048,
    layerwise: bool = True,
    top_k: int | None = None,
    temperature: float = 1.0,
) -> Mixing:
    """X-LoRA.

    Args:
        depth: linear layers of the head.
        hidden: width between them.
        layerwise: weights of their own for every linear layer; otherwise one set for all.
        top_k: keep only the k largest weights (they are not normalised again); None keeps all.
        temperature: of the softmax.
    """
    if depth < 1:
        raise RosterError(f"x-lora: depth must be at least 1, not {depth}")

    def head(whole: Site) -> XLoraHead:
        num_sites = whole.num_sites if layerwise else 1
        return XLoraHead(whole.width, hidden, depth, num_sites, whole.num_experts)

    def router(site: Site) -> Router:
        select = All(temperature=temperature) if top_k is None else TopK(top_k, "all", temperature)
        return Router(FromMemory(_KEY, site.index if layerwise else 0), select)

    return Mixing(router, at="linear", head=head, head_reads="first pass", trains=frozenset({"router"}))


RECIPE = Recipe(
    slug="x-lora",
    title="X-LoRA",
    source="Buehler and Buehler, 2024, X-LoRA: Mixture of Low-Rank Adapter Experts, arXiv:2402.07148",
    compose=xlora,
    trains="router",
    batch_invariant=True,
    claim="A gate trained on mixed data over frozen adapters beats each adapter and their uniform average.",
    evidence="docs/results/mix.md",
    needs=("training",),
)
