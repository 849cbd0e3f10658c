"""A router whose scores are not numbers says so before anybody is routed by them."""

import pytest
import torch

import tiny
from roster import RosterError, Router
from roster.context import Context
from roster.moe import replace
from roster.recipes import RECIPES
from roster.score import Linear
from roster.select import TopK

MIXTURES = {slug for slug, recipe in RECIPES.items() if recipe.kind == "moe"}
# Dense blocks, and scores without parameters: word and token ids, random draws, fixed directions, named skills.
FIXED = {"dense-active", "dense-total", "hash-routing", "locmoe", "mowe", "random-routing", "skillnet-nlg", "thor"}


def score_weights(model):
    return [weight for module in model.modules() if isinstance(module, Router) for weight in module.score.parameters()]


def poisoned(rows=slice(None)):
    router = Router(Linear(4, 3), TopK(2), site="here")
    with torch.no_grad():
        router.score.weight_ED[rows] = torch.nan
    return router


@pytest.mark.parametrize("slug", sorted(FIXED))
def test_these_have_no_scores_to_be_nan(slug):
    assert not score_weights(replace(tiny.base(), slug, tasks=("red", "green")))


@pytest.mark.parametrize("slug", sorted(MIXTURES - FIXED))
def test_every_other_recipe_refuses_scores_that_are_nan(slug):
    model = replace(tiny.base(), slug, tasks=("red", "green"))
    weights = score_weights(model)
    assert weights
    with torch.no_grad():
        for weight in weights:
            weight.fill_(torch.nan)
    known = {"task_ids": torch.zeros(2, dtype=torch.long)} if model.roster.plan.routes_by_task else {}
    for training in (False, True):
        model.train(training)
        with pytest.raises(
            RosterError, match=rf"recipe '{slug}': \w+ gives NaN for 10 of 10 tokens, first for token 0"
        ):
            model(input_ids=torch.ones(2, 5, dtype=torch.long), use_cache=False, **known)


def test_it_says_which_tokens_and_whose_fault():
    x_TD = torch.randn(6, 4)
    with pytest.raises(RosterError, match=r"router 'here': Linear gives NaN for 6 of 6 .* look at its weights"):
        poisoned(rows=1)(x_TD, Context(2, 3))
    x_TD[4] = torch.nan
    with pytest.raises(RosterError, match="NaN for 1 of 6 tokens, first for token 4; the hidden states"):
        Router(Linear(4, 3), TopK(2))(x_TD, Context(2, 3))


def test_what_is_infinite_or_padding_is_no_fault():
    router, x_TD = Router(Linear(4, 3), TopK(2)), torch.randn(6, 4)
    x_TD[5] = torch.nan
    mask_BS = torch.tensor([[True, True, True], [True, True, False]])
    route = router(x_TD, Context(2, 3, mask_BS))
    assert route.chosen().sum(1).tolist() == [2, 2, 2, 2, 2, 0]
    with torch.no_grad():
        router.score.weight_ED[0], router.score.weight_ED[1] = torch.inf, -torch.inf
    assert router(torch.ones(6, 4), Context(2, 3)).chosen()[:, 0].all()
