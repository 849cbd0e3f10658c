"""UpIT: children of checkpoints, against the equation, and routers by who says it best, against plain transformers."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from convert.test_carved import dense
from convert.test_convert import carried_out, config
from roster.convert.dense import PARTS, open_dense
from roster.convert.upit import Bred, Family, _losses, differences, plan_upit
from roster.errors import RosterError
from roster.weights import apply
from roster.weights.texts import as_texts


def tuned(tmp_path, count=3):
    """A base, and checkpoints that leave it in directions of their own."""
    folders = [dense(tmp_path / "base")]
    for number in range(count):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config())
        torch.manual_seed(10 + number)
        for parameter in model.parameters():
            parameter.data += 0.05 * (number + 1) * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / f"step{number}")
        folders.append(tmp_path / f"step{number}")
    return folders


def samples(rows=8):
    generator = torch.Generator().manual_seed(3)
    return as_texts([torch.randint(1, 96, (12 + row % 4,), generator=generator).tolist() for row in range(rows)])


def test_inner_products_are_those_of_the_differences(tmp_path):
    folders = tuned(tmp_path)
    found = differences([open_dense(each) for each in folders])
    was = [load_file(each / "model.safetensors") for each in folders]
    names = [name for name in was[0] if ".mlp." in name]
    flat = [torch.cat([(each[name] - was[0][name]).flatten().double() for name in names]) for each in was[1:]]
    torch.testing.assert_close(
        found, torch.stack([torch.stack([a @ b for b in flat]) for a in flat]), rtol=1e-5, atol=1e-4
    )


def test_a_child_is_the_drawn_mean_of_its_parents():
    base, a, b = torch.randn(3, 200, 500)
    tree = (2, 0.3, 0, 1)
    plain = apply(Bred(tree, 1.0, 0, "w"), [base, a, b])
    torch.testing.assert_close(plain, 0.3 * a + 0.7 * b)
    child = apply(Bred(tree, 0.5, 0, "w"), [base, a, b]) - base
    parts = [0.6 * (a - base), 1.4 * (b - base)]  # of each what is kept is doubled
    options = torch.stack([torch.zeros_like(base), parts[0], parts[1], parts[0] + parts[1]])
    apart, which = (options - child).abs().min(0)
    assert apart.max() < 1e-5
    shares = torch.bincount(which.flatten(), minlength=4) / which.numel()
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.01, rtol=0)
    grandchild = apply(Bred((3, 0.5, tree, 0), 1.0, 0, "w"), [base, a, b])
    torch.testing.assert_close(grandchild, 0.5 * plain + 0.5 * a)


def test_the_least_alike_breed_and_expected_products_are_right():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 40000, generator=generator)
    x[1] += 2 * x[0]  # 0 and 2 are the least alike, or 1 and 2: planted below
    x[2] -= 0.5 * x[0]
    family = Family((x @ x.T).double(), 0.5)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
    a, b = family.least_alike()
    assert cosine[a, b] == cosine.min()
    family.breed(0.25)
    child = apply(Bred(family.trees[3], 0.5, 0, "w"), [torch.zeros_like(x[0]), *x])
    torch.testing.assert_close(family.gram_EE[3, 3], (child @ child).double(), rtol=0.03, atol=0)
    torch.testing.assert_close(family.gram_EE[3, :3], (x @ child).double(), rtol=0.05, atol=600)


def test_experts_are_checkpoints_and_children_and_all_else_the_last_one(tmp_path):
    folders = tuned(tmp_path)
    models = [open_dense(each) for each in folders]
    made = carried_out(plan_upit(models, samples(), experts=5), tmp_path / "made")
    model, report = AutoModelForCausalLM.from_pretrained(made, output_loading_info=True)
    assert not report["missing_keys"], report
    assert model.config.num_local_experts == 5
    now = load_file(made / "model.safetensors")
    was = [load_file(each / "model.safetensors") for each in folders]
    for expert in range(3):
        own = now[f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"]
        assert torch.equal(own, was[1 + expert]["model.layers.1.mlp.down_proj.weight"])
    assert torch.equal(now["model.embed_tokens.weight"], was[-1]["model.embed_tokens.weight"])
    children = [now[f"model.layers.1.block_sparse_moe.experts.{each}.w2.weight"] for each in (3, 4)]
    assert not torch.equal(*children)


def test_losses_are_those_of_transformers_and_tokens_go_to_the_best(tmp_path):
    folders = tuned(tmp_path)
    models, texts = [open_dense(each) for each in folders], samples()
    found = torch.stack([_losses(models, tree, 0.5, texts, 0) for tree in range(3)])
    for expert in range(3):
        model = AutoModelForCausalLM.from_pretrained(folders[-1]).eval()
        own = load_file(folders[1 + expert] / "model.safetensors")
        for layer, block in enumerate(model.model.layers):
            for part in PARTS:
                getattr(block.mlp, f"{part}_proj").weight.data = own[f"model.layers.{layer}.mlp.{part}_proj.weight"]
        for row, (ids, mask) in enumerate(zip(texts.ids_BS, texts.mask_BS, strict=True)):
            ids = ids[mask.bool()][None]
            with torch.no_grad():
                loss = model(input_ids=ids, labels=ids).loss
            torch.testing.assert_close(found[expert, row], loss, atol=1e-4, rtol=1e-4)
    made = carried_out(plan_upit(models, texts, experts=3), tmp_path / "made")
    model = AutoModelForCausalLM.from_pretrained(made).eval()
    with torch.no_grad():
        routers = model(input_ids=texts.ids_BS, attention_mask=texts.mask_BS, output_router_logits=True).router_logits
    wanted = found.argmin(0)[:, None].expand_as(texts.mask_BS)[texts.mask_BS.bool()]
    right = routers[0].argmax(-1)[texts.mask_BS.bool().flatten()] == wanted
    assert right.double().mean() > 0.8


def test_a_base_that_is_not_the_base_is_refused(tmp_path):
    models = [open_dense(dense(tmp_path / f"m{seed}", seed)) for seed in range(3)]
    with pytest.raises(RosterError, match="no checkpoint of that base's tuning"):
        plan_upit(models, samples())


def test_what_cannot_be_bred_is_refused(tmp_path):
    models = [open_dense(each) for each in tuned(tmp_path, 2)]
    for given, options, message in (
        (models[:2], {}, "at least two checkpoints"),
        (models, {"experts": 1}, "there are 2 checkpoints"),
        (models, {"density": 5.0}, "density=5.0 must be above 0"),
        (models, {"router": "fited"}, "did you mean 'fitted'"),
        (models, {"top_k": 9}, "9 of 8 experts"),
    ):
        with pytest.raises(RosterError, match=message):
            plan_upit(given, samples(), **options)
