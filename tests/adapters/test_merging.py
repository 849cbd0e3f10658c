"""Merging a mixture whose route is constant: exact, or as near as a rank allows, and readable by PEFT."""

from dataclasses import replace

import peft
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import roster
import tiny
from roster import Router
from roster.adapters.attach import attach
from roster.adapters.merging import truncate
from roster.adapters.mixing import Mixing
from roster.adapters.site import routed_linears
from roster.context import Context
from roster.library import LowRank, read_adapter
from roster.recipes import RECIPES
from roster.score import TaskTable
from roster.select import All

ATOL = 1e-5
# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),  # PEFT sets it right by itself
]


def routed(slug, architecture="llama", library=None, **options):
    model = tiny.base(architecture)
    if library is None:
        library = tiny.library(model, 3, targets=tiny.ARCHITECTURES[architecture][2], scales=[2.0, 1.0, 0.5])
    model = attach(model, library, RECIPES[slug](options), recipe=slug, options=options).eval()
    model.roster.base_name = "tiny/base"
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if name.endswith("table_NE"):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def logits(model, **given):
    with torch.no_grad():
        return model(input_ids=torch.stack(tiny.tokens(6, 6)), use_cache=False, **given).logits


def through_peft(merged, folder, architecture="llama"):
    path = merged.save(folder / "merged adapter")
    assert read_adapter(path).modules.keys() == merged.adapter.modules.keys()
    return logits(peft.PeftModel.from_pretrained(tiny.base(architecture), str(path)).eval())


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=ATOL, rtol=1e-5)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("weights", [None, [0.5, 0.0, -1.0]])
def test_uniform_is_one_adapter(architecture, weights, tmp_path):
    model = routed("uniform", architecture, weights=weights)
    expected = logits(model)
    merged = model.merge()
    assert merged.exact
    assert set(merged.error.values()) == {0.0}
    assert {u.A_RD.shape[0] for u in merged.adapter.modules.values()} == {12 if weights is None else 8}
    close(through_peft(merged, tmp_path, architecture), expected)
    plain = merged.plain_model()
    assert type(plain) is type(tiny.base(architecture))
    assert [name for name, _ in plain.named_modules()] == [name for name, _ in tiny.base(architecture).named_modules()]
    assert plain.state_dict().keys() == tiny.base(architecture).state_dict().keys()
    for module in plain.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not hasattr(plain, "roster")
    close(logits(plain), expected)
    assert torch.equal(logits(model), expected), "merging changed the model"


def test_the_plain_model_is_saved_and_loaded_by_transformers(tmp_path):
    model = routed("uniform")
    model.merge().plain_model().save_pretrained(tmp_path / "plain")
    again = type(tiny.base()).from_pretrained(tmp_path / "plain").eval()
    close(logits(again), logits(model))


@pytest.mark.parametrize(
    ("slug", "options"),
    [("named", {}), ("oracle", {}), ("polytropon", {"average": "factors"}), ("polytropon", {"average": "updates"})],
    ids=["named", "oracle", "factors", "updates"],
)
@pytest.mark.parametrize("index", [0, 2])
def test_per_task(slug, options, index, tmp_path):
    model = routed(slug, **options)
    task = model.roster.tasks[index]
    expected = logits(model, task_ids=torch.tensor([index, index]))
    merged = model.merge(task=task)
    close(through_peft(merged, tmp_path), expected)
    close(logits(merged.plain_model()), expected)
    other = logits(model, task_ids=torch.tensor([1, 1]))
    assert (other - expected).abs().max() > 1e-3


def test_averaged_factors_keep_their_rank():
    merged = routed("polytropon", average="factors").merge(task="task 1")
    assert {u.A_RD.shape[0] for u in merged.adapter.modules.values()} == {4}


def test_a_model_in_training_mode_is_merged_as_it_answers():
    """Polytropon samples while training; merging does not, and leaves the mode as it was."""
    model = routed("polytropon")
    expected = logits(model, task_ids=torch.tensor([1, 1]))
    model.train()
    merged = model.merge(task="task 1")
    assert all(module.training for module in model.modules())
    close(logits(merged.plain_model().eval()), expected)


def test_different_ranks_and_missing_experts(tmp_path):
    """Layers with fewer experts, experts with other ranks."""
    whole = tiny.library(tiny.base(), 3, ranks=[1, 5, 3], scales=[1.0, 2.0, 0.3])
    kept = {n: u for n, u in whole["expert 1"].modules.items() if "layers.0" in n}
    library = roster.library.Library({**whole, "expert 1": replace(whole["expert 1"], modules=kept)})
    model = routed("uniform", library=library)
    expected = logits(model)
    merged = model.merge()
    assert {u.A_RD.shape[0] for u in merged.adapter.modules.values()} == {4, 9}
    close(through_peft(merged, tmp_path), expected)


def explicit_OI(update):
    return update.scale * update.B_OR.double() @ update.A_RD.double()


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_a_cut_rank_is_the_best_there_is(rank):
    """The error told is the true one, and no matrix of that rank comes nearer (Eckart and Young)."""
    model = routed("uniform")
    exact, cut = model.merge(), model.merge(rank=rank)
    assert not cut.exact
    for name, update in cut.adapter.modules.items():
        assert update.A_RD.shape[0] == rank
        whole_OI = explicit_OI(exact.adapter.modules[name])
        size = torch.linalg.svdvals(whole_OI)
        true_error = torch.linalg.norm(explicit_OI(update) - whole_OI) / torch.linalg.norm(whole_OI)
        best_error = size[rank:].norm() / size.norm()
        assert abs(cut.error[name] - true_error.item()) < 1e-6
        assert abs(cut.error[name] - best_error.item()) < 1e-6
        assert cut.error[name] > 0.1


def test_enough_rank_is_exact():
    model = routed("uniform")
    cut = model.merge(rank=12)
    assert max(cut.error.values()) < 1e-6
    close(logits(cut.plain_model()), logits(model))
    assert {u.A_RD.shape[0] for u in model.merge(rank=500).adapter.modules.values()} == {12}


def test_truncating_nothing():
    update = LowRank(torch.randn(4, 16), torch.zeros(24, 4), 1.0)
    cut, error = truncate(update, 2)
    assert error == 0.0
    assert not explicit_OI(cut).any()
    assert cut.A_RD.isfinite().all()


def test_a_layer_narrower_than_the_ranks():
    """Twelve ranks on a layer with eight outputs."""
    A, B = torch.randn(12, 16), torch.randn(8, 12)
    cut, error = truncate(LowRank(A, B, 0.5), 12)
    assert error < 1e-6
    close(explicit_OI(cut).float(), 0.5 * B @ A)


@pytest.mark.parametrize(
    "slug", [s for s, r in RECIPES.items() if r.kind == "mixture" and r(None).constant is None and r(None).causal]
)
def test_recipes_that_look_at_tokens_refuse(slug, tmp_path):
    library = tiny.library(tiny.base(), 3, folder=tmp_path)
    model = attach(tiny.base(), library, RECIPES[slug](), recipe=slug, tokenizer=tiny.Tokenizer())
    with pytest.raises(roster.RosterError, match=f"'{slug}' routes by the tokens"):
        model.merge()


def test_what_cannot_be_merged():
    model = routed("named")
    with pytest.raises(roster.RosterError, match=r"say for which.*expert 0"):
        model.merge()
    with pytest.raises(roster.RosterError, match="unknown task 'expert 9': did you mean"):
        model.merge(task="expert 9")
    with pytest.raises(roster.RosterError, match="at least 1, not 0"):
        routed("uniform").merge(rank=0)
    with pytest.raises(roster.RosterError, match="nothing to merge"):
        routed("uniform", weights=[0.0, 0.0, 0.0]).merge()


def test_merging_again_over_one_folder_is_refused(tmp_path):
    merged = routed("uniform").merge()
    merged.save(tmp_path / "m")
    with pytest.raises(roster.RosterError, match="already there"):
        merged.save(tmp_path / "m")
    other = routed("uniform", weights=[1.0, 0.0, 0.0]).merge()
    other.save(tmp_path / "m", overwrite=True)
    assert read_adapter(tmp_path / "m").weights_hash == other.adapter.weights_hash


def test_half_precision_weights_are_added_in_full():
    """The update is formed in float64 and rounded once."""
    model = tiny.base().to(torch.bfloat16)
    library = tiny.library(tiny.base(), 3)
    model = attach(model, library, RECIPES["uniform"](), recipe="uniform").eval()
    plain = model.merge().plain_model()
    for name, child in routed_linears(model):
        linear = plain.get_submodule(name)
        assert isinstance(linear, (nn.Linear, Conv1D))
        assert linear.weight.dtype == torch.bfloat16
        delta = sum(s * B.double() @ A.double() / 3 for A, B, s in (child.experts.expert(e) for e in range(3))).detach()
        expected = model.get_submodule(name).weight.double() + delta
        error = (linear.weight.double() - expected).abs().max() / expected.abs().max()
        assert error < 2**-7


def test_one_token_tells_the_route():
    """The gate that is merged is the gate that the router gives any token."""
    model = routed("uniform", weights=[0.2, 0.3, 0.5])
    route = model.roster.router(torch.empty(4, 0), Context(2, 2))
    torch.testing.assert_close(route.dense(), torch.tensor([[0.2, 0.3, 0.5]]).expand(4, -1))


def test_a_merged_adapter_says_whose_it_is(tmp_path):
    model = routed("uniform")
    assert read_adapter(model.merge().save(tmp_path / "merged")).card.base == "tiny/base"


@pytest.mark.parametrize("part", ["router", "head"])
def test_a_recipe_that_decides_for_the_whole_model_is_told_so(part):
    """The whole is one site, the first of its kind, without updates of its own."""
    seen = []

    def router(site):
        seen.append(site)
        return Router(TaskTable(torch.zeros(1, site.num_experts), torch.zeros(site.num_experts), needed_by=""), All())

    def head(site):
        seen.append(site)
        return nn.Identity()

    library = tiny.library(tiny.base(), 3)
    attach(tiny.base(), library, Mixing(router, at="model", head=head if part == "head" else None))
    for site in seen:
        assert (site.name, site.index, site.width, site.out_features, site.updates) == ("model", 0, 32, 0, ())
        assert site.experts == tuple(library.names)
        assert site.num_sites == len(library.module_names)
    assert len(seen) == 1 + (part == "head")
