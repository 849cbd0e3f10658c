"""MergeME: shared weights against `merge_tensors` and by hand; models weighed by perplexity against transformers."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from cli.conftest import refuse, succeed
from convert.test_convert import IDS, carried_out, dense
from roster.convert import plan_btx
from roster.convert.dense import open_dense
from roster.convert.mergeme import plan_mergeme
from roster.convert.perplexity import PerplexityEnsemble
from roster.errors import RosterError
from roster.merge import merge_tensors


@pytest.fixture
def folders(tmp_path):
    """A base and three models made of it."""
    found = [dense(tmp_path / "base")]
    start = load_file(found[0] / "model.safetensors")
    for number in range(3):
        found.append(dense(tmp_path / f"m{number}"))
        generator = torch.Generator().manual_seed(number)
        moved = {n: w + 0.05 * (1 + number) * torch.randn(w.shape, generator=generator) for n, w in start.items()}
        save_file(moved, found[-1] / "model.safetensors", metadata={"format": "pt"})
    return found


def made(folders, out, **options):
    plan = plan_mergeme([open_dense(each) for each in folders], **options)
    return load_file(carried_out(plan, out) / "model.safetensors")


def test_shared_weights_are_merged_by_ties_over_all_of_them(folders, tmp_path):
    base, *models = (load_file(each / "model.safetensors") for each in folders)
    now = made(folders, tmp_path / "made", density=0.3, scale=0.5)
    names = [name for name in base if ".mlp." not in name]
    taus = [torch.cat([(each[n] - base[n]).flatten() for n in names]) for each in models]
    kept = []
    for tau in taus:
        threshold = tau.abs().topk(int(0.3 * tau.numel())).values[-1]
        kept.append(torch.where(tau.abs() >= threshold, tau, 0.0))
    total = torch.stack(kept).sum(0)
    sign = torch.where(total >= 0, 1.0, -1.0)
    wanted = sum(torch.where(each * sign > 0, each, 0.0) for each in kept) * 0.5
    found = torch.cat([(now[n] - base[n]).flatten() for n in names])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_dare_is_the_one_of_merging_and_blocks_are_experts(folders, tmp_path):
    base, *models = (load_file(each / "model.safetensors") for each in folders)
    now = made(folders, tmp_path / "made", shared="dare", density=0.8, seed=4)
    for name in ("model.layers.1.self_attn.k_proj.weight", "model.norm.weight"):
        settings = {"weight": 1, "density": 0.8, "lambda": 1 / 3, "seed": 4}
        wanted = merge_tensors("dare_linear", [each[name] for each in models], base[name], name=name, **settings)
        torch.testing.assert_close(now[name], wanted)
        assert not torch.allclose(wanted, torch.stack([each[name] for each in models]).mean(0), atol=1e-4)
    for expert, each in enumerate(models):
        own = now[f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"]
        assert torch.equal(own, each["model.layers.1.mlp.down_proj.weight"])


def test_by_the_mean_it_is_btx(folders, tmp_path):
    found = made(folders, tmp_path / "made", shared="mean")
    plan = plan_btx([open_dense(each) for each in folders[1:]])
    wanted = load_file(carried_out(plan, tmp_path / "btx") / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        torch.testing.assert_close(found[name], each, rtol=0, atol=1e-6)


def test_what_cannot_be_is_refused(folders):
    models = [open_dense(each) for each in folders]
    for options, says in (({"shared": "tise"}, "did you mean 'ties'"), ({"density": 0.0}, "density=0.0")):
        with pytest.raises(RosterError, match=says):
            plan_mergeme(models, **options)
    with pytest.raises(RosterError, match="the base and at least two"):
        plan_mergeme(models[:2])


def test_from_the_command_line(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["convert", "base", "m0", "m1", "--to", "mergeme", "--option", "shared=dare", "--no-prove"]
    assert "wrote mixture" in succeed(*command, "--out", "mixture")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mixture")
    assert model.config.num_local_experts == 2
    assert "no option 'share'" in refuse(*command, "--option", "share=dare", "--out", "other")


def test_models_are_weighed_by_one_over_the_perplexity_of_the_prompt(folders):
    models = [AutoModelForCausalLM.from_pretrained(each).eval() for each in folders[1:]]
    ensemble = PerplexityEnsemble(models, top_k=2)
    found = ensemble.weights(IDS)
    with torch.no_grad():
        for row, ids in enumerate(IDS):
            inverse = torch.tensor([
                (-cross_entropy(each(ids[None]).logits[0, :-1], ids[1:])).exp() for each in models
            ])  # fmt: skip
            best = inverse.topk(2).indices
            wanted = torch.zeros(3)
            wanted[best] = inverse[best].softmax(0)
            torch.testing.assert_close(found[row], wanted)
            mixed = sum(w * each(ids[None]).logits for w, each in zip(wanted, models, strict=True))
            torch.testing.assert_close(ensemble(ids[None], found[row : row + 1]), mixed, rtol=1e-4, atol=1e-4)
            # Padding on either side changes no weight.
            pad = torch.zeros(1, 2, dtype=ids.dtype)
            for order in (1, -1):
                wide = torch.cat([ids[None], pad][::order], dim=1)
                mask = torch.cat([torch.ones_like(ids[None]), pad][::order], dim=1)
                torch.testing.assert_close(ensemble.weights(wide, mask)[0], found[row], rtol=1e-4, atol=1e-6)


def test_generation_with_caches_is_generation_without(folders):
    models = [AutoModelForCausalLM.from_pretrained(each).eval() for each in folders[1:]]
    ensemble = PerplexityEnsemble(models, top_k=2)
    found = ensemble.generate(IDS[0], 5)
    ids = IDS[0]
    weights = ensemble.weights(ids[None])
    for _ in range(5):
        with torch.no_grad():
            ids = torch.cat([ids, ensemble(ids[None], weights)[0, -1].argmax()[None]])
    assert torch.equal(found, ids)
    with pytest.raises(RosterError, match="top_k=4 of 3"):
        PerplexityEnsemble(models, 4)
