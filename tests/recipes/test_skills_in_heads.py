"""Recipes in which tasks are sets of skills: against PEFT's Poly, and the equations written out."""

import json

import peft
import pytest
import torch

import tiny
from roster import Context, RosterError
from roster.adapters.attach import attach
from roster.adapters.poly import load_poly, read_poly, write_poly
from roster.adapters.site import routed_linears
from roster.library import Library, make_adapter
from roster.recipes import find

# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TASKS = ["red", "green", "blue"]


def ids(rows=3):
    return torch.stack(tiny.tokens(*[6] * rows, seed=3))


def routed(slug, library=None, **options):
    model = tiny.base()
    library = tiny.library(model, 4, scales=[2.0, 1.0, 0.5, 3.0]) if library is None else library
    return attach(model, library, find(slug)(options), recipe=slug, options=options).eval()


def logits(model, **given):
    with torch.no_grad():
        return model(input_ids=ids(len(given["task_ids"])), use_cache=False, **given).logits


def spread(model, seed=5):
    """Random allocations in place of those that are all nearly alike."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "table_N" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def peft_poly(splits, folder, training=False):
    """PEFT's Poly with random skills and allocations, written to a folder."""
    torch.manual_seed(1)
    targets = list(tiny.ARCHITECTURES["llama"][2])
    config = peft.PolyConfig(
        r=4, n_skills=4, n_tasks=3, n_splits=splits, target_modules=targets, task_type="CAUSAL_LM", init_weights=False
    )
    model = peft.get_peft_model(tiny.base(), config)
    for name, parameter in model.named_parameters():
        if "module_logits" in name:
            parameter.data.normal_()
    model.save_pretrained(str(folder))
    return model.train(training)


@pytest.mark.parametrize("splits", [1, 2, 8])
def test_a_folder_of_peft_poly_is_mhr(splits, tmp_path):
    """The same function of (tokens, task), to 1e-6; and PEFT reads what is written back."""
    theirs = peft_poly(splits, tmp_path / "theirs").eval()
    ours = load_poly(tiny.base(), tmp_path / "theirs", tasks=TASKS).eval()
    task_ids = torch.tensor([2, 0, 1])
    expected = logits(theirs, task_ids=task_ids)
    torch.testing.assert_close(logits(ours, task_ids=task_ids), expected, atol=1e-6, rtol=1e-5)
    assert (logits(ours, task_ids=task_ids.flip(0)) - expected).abs().max() > 1e-3
    path = write_poly(ours, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(tiny.base(), str(path)).eval()
    torch.testing.assert_close(logits(again, task_ids=task_ids), expected, atol=1e-6, rtol=1e-5)


def test_mhr_trains_as_peft_poly_does(tmp_path):
    """Gradients of skills and allocation, through one draw of the relaxation that both are given."""
    theirs = peft_poly(2, tmp_path / "theirs", training=True)
    ours = load_poly(tiny.base(), tmp_path / "theirs", tasks=TASKS)
    task_ids = torch.tensor([2, 0, 1])
    for model in (theirs, ours):
        model.eval()  # without a draw: the gradient at the mean allocation
        model(input_ids=ids(), labels=ids(), task_ids=task_ids, use_cache=False).loss.backward()
    compared = 0
    for name, child in routed_linears(ours):
        layer = theirs.base_model.model.get_submodule(name)
        table_NHE = layer.poly_router["default"].module_logits.grad.view(3, 2, 4)
        torch.testing.assert_close(child.router.score.table_NEP.grad, table_NHE.transpose(1, 2), atol=1e-6, rtol=1e-4)
        A_HEir = layer.poly_lora_A["default"].grad
        A_RI = A_HEir.permute(1, 3, 0, 2).flatten(2).flatten(0, 1)
        torch.testing.assert_close(child.experts.A_RI.grad, A_RI, atol=1e-6, rtol=1e-4)
        compared += 1
    assert compared == 10


def test_one_head_is_polytropon():
    """With one head, and skills of different scales."""
    one, poly = routed("mhr", heads=1), routed("polytropon", average="factors")
    spread(one)
    spread(poly)
    given = {"task_ids": torch.tensor([3, 0, -1])}
    torch.testing.assert_close(logits(one, **given), logits(poly, **given), atol=1e-6, rtol=1e-5)


def test_mhr_z_trains_heads_times_skills_numbers_per_layer_and_task():
    model = routed("mhr", heads=4, tune="z")
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.shape for p in trained.values()} == {(4, 4, 4)}  # tasks, skills, heads
    assert len(trained) == len(list(routed_linears(model)))


@pytest.mark.parametrize(("slug", "options"), [("mhr", {"heads": 8}), ("c-poly", {"shared": ["expert 1"]})])
def test_a_tasks_mixture_merges_into_one_plain_adapter(slug, options, tmp_path):
    model = spread(routed(slug, **options))
    task = model.roster.tasks[2]
    merged = model.merge(task=task)
    assert merged.exact
    plain = peft.PeftModel.from_pretrained(tiny.base(), str(merged.save(tmp_path / "adapter"))).eval()
    with torch.no_grad():
        found = plain(input_ids=ids(2), use_cache=False).logits
    torch.testing.assert_close(found, logits(model, task_ids=torch.tensor([2, 2])), atol=1e-5, rtol=1e-5)
    if slug == "mhr":
        assert {update.A_RD.shape[0] for update in merged.adapter.modules.values()} == {4}  # the rank of one skill


def test_mhr_mu_is_the_mean_of_the_skills_and_moves_as_one_adapter(tmp_path):
    """Adam on the copies moves their mean as it would move one adapter."""
    # Skills of scale one, as the merged B carries the scales, and so do its steps.
    library = tiny.library(tiny.base(), 4, scales=[1.0] * 4)
    model = routed("mhr", library, heads=8, tune="mean")
    model.merge().save(tmp_path / "mean")
    alone = peft.PeftModel.from_pretrained(tiny.base(), str(tmp_path / "mean"), is_trainable=True).eval()
    # The copies' gradients are smaller by a constant, which only Adam's epsilon sees.
    for each in (model, alone):
        adam = torch.optim.Adam([p for p in each.parameters() if p.requires_grad], lr=1e-3, eps=1e-30)
        for _ in range(3):
            adam.zero_grad()
            each(input_ids=ids(), labels=ids(), use_cache=False).loss.backward()
            adam.step()
    own = {n: p.detach() for n, p in alone.named_parameters() if p.requires_grad}
    for name, update in model.merge().adapter.modules.items():
        (A,) = (p for n, p in own.items() if n.endswith(f"{name}.lora_A.default.weight"))
        (B,) = (p for n, p in own.items() if n.endswith(f"{name}.lora_B.default.weight"))
        # Where a gradient is next to nothing, its sign is chance, and Adam takes the sign.
        assert ((update.A_RD - A).abs() < 1e-4).float().mean() > 0.99
        assert ((update.B_OR - B).abs() < 1e-4).float().mean() > 0.99


def test_c_poly_is_its_equation():
    model = spread(routed("c-poly", shared=["expert 0", "expert 3"]))
    assert list(model.roster.tasks) == ["task 1", "task 2"]
    library = tiny.library(tiny.base(), 4, scales=[2.0, 1.0, 0.5, 3.0])
    name, child = next(iter(routed_linears(model)))
    x_TI, y_TO = torch.randn(4, 32), torch.randn(4, library["expert 0"].modules[name].B_OR.shape[0])
    with torch.no_grad():
        route = child.router(x_TI, Context(2, 2, task_ids_B=torch.tensor([1, 0])))
        found = child.experts(x_TI, y_TO.clone(), route)
    for token, (task, own) in enumerate([(1, "expert 2"), (1, "expert 2"), (0, "expert 1"), (0, "expert 1")]):
        z = child.router.score.table_NEP[task, :, 0].detach().sigmoid()
        expected = y_TO[token]
        for index in (0, 3):
            update = library[f"expert {index}"].modules[name]
            expected = expected + z[index] / (z[0] + z[3]) * update.scale * update.B_OR @ (update.A_RD @ x_TI[token])
        update = library[own].modules[name]
        expected = expected + update.scale * update.B_OR @ (update.A_RD @ x_TI[token])
        torch.testing.assert_close(found[token], expected, atol=1e-5, rtol=1e-5)


def test_without_its_private_skill_only_that_task_is_another():
    options = {"shared": ["expert 0", "expert 3"]}
    whole, model = tiny.base(), tiny.base()
    library = tiny.library(whole, 4)
    silent = {n: make_adapter(n, a.modules, "tiny/base", a.card) for n, a in library.items()}
    for update in silent["expert 2"].modules.values():
        update.B_OR.zero_()
    before = spread(attach(whole, tiny.library(tiny.base(), 4), find("c-poly")(options)).eval())
    after = spread(attach(model, Library(silent), find("c-poly")(options)).eval())
    given = {"task_ids": torch.tensor([0, 1, -1])}
    one, other = logits(before, **given), logits(after, **given)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[2], other[2])
    assert (one[1] - other[1]).abs().max() > 1e-3


def test_sira_never_overfills_an_expert_while_training():
    model = routed("sira", top_k=2, capacity=0.75).train()
    _, child = next(iter(routed_linears(model)))
    with torch.no_grad():
        child.router.score.weight_ED.normal_()
        route = child.router(torch.randn(12, 32), Context(2, 6))
        assert int(route.counts_E.max()) <= 5  # ceil(0.75 * 24 / 4)
        assert int(route.dropped_E.sum()) > 0
        child.router.eval()
        full = child.router(torch.randn(12, 32), Context(2, 6))
    assert int(full.counts_E.sum()) == 24


def test_sira_keeps_lost_experts_out_of_the_choice():
    model = routed("sira", top_k=1, dropout=0.75, capacity=100.0).train()
    _, child = next(iter(routed_linears(model)))
    same_TI = torch.randn(1, 32).expand(200, 32)
    with torch.no_grad():
        route = child.router(same_TI, Context(1, 200))
        assert (route.counts_E > 20).all()  # one of four is left to each token, whichever it likes best
        child.router.eval()
        assert (child.router(same_TI, Context(1, 200)).counts_E > 0).sum() == 1


@pytest.mark.parametrize(
    ("slug", "options", "says"),
    [
        ("mhr", {"heads": 5}, "does not divide into 5 heads"),
        ("mhr", {"tune": "mu"}, "option tune='mu'"),
        ("c-poly", {"shared": ["expert 9"]}, "no expert is called 'expert 9'"),
    ],
)
def test_bad_options_are_refused(slug, options, says):
    with pytest.raises(RosterError, match=says):
        routed(slug, **options)


def test_what_is_no_poly_is_refused(tmp_path):
    with pytest.raises(RosterError, match="cannot be read"):
        read_poly(tmp_path)
    peft_poly(2, tmp_path / "theirs")
    file = tmp_path / "theirs" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "n_splits": 4}))
    with pytest.raises(RosterError, match="do not belong to n_splits=4"):
        read_poly(tmp_path / "theirs")
    file.write_text(json.dumps({**config, "peft_type": "LORA"}))
    with pytest.raises(RosterError, match="peft_type='LORA'"):
        read_poly(tmp_path / "theirs")
    with pytest.raises(RosterError, match="not the function of PEFT's Poly"):
        write_poly(routed("polytropon"), tmp_path / "other")
