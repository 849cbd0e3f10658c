"""Dense blocks of every family become mixtures; what the experts begin as; what cannot be replaced says so."""

import pytest
import torch
import transformers

import roster
import tiny
from roster.errors import RosterError
from roster.experts import MLP, Gated
from roster.moe import replace
from roster.moe.blocks import find_blocks
from roster.moe.dense_start import start_dense
from roster.moe.replacing import routed_blocks
from roster.recipes import RECIPES

_ENCODER = {
    **{"vocab_size": tiny.VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0},
}
_DECODER = {**_ENCODER, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
# Family: (class, settings, kind of its experts, activation).
FAMILIES = {
    "llama": ("Llama", _GROUPED, Gated, "silu"),
    "mistral": ("Mistral", _GROUPED, Gated, "silu"),
    "qwen3": ("Qwen3", {**_GROUPED, "head_dim": 8}, Gated, "silu"),
    "llama with biases": ("Llama", {**_GROUPED, "mlp_bias": True}, Gated, "silu"),
    "gemma": ("Gemma", {**_GROUPED, "head_dim": 8}, Gated, "gelu_tanh"),
    "gemma2": ("Gemma2", {**_GROUPED, "head_dim": 8}, Gated, "gelu_tanh"),
    "gemma3": ("Gemma3", {**_GROUPED, "head_dim": 8}, Gated, "gelu_tanh"),
    "phi": ("Phi", _DECODER, MLP, "gelu_tanh"),
    "phi3": ("Phi3", _GROUPED, Gated, "silu"),
    "glm4": ("Glm4", {**_GROUPED, "head_dim": 8}, Gated, "silu"),
    "gpt2": ("GPT2", {"vocab_size": tiny.VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4}, MLP, "gelu_tanh"),
    "gpt_neox": ("GPTNeoX", _DECODER, MLP, "gelu"),
    "nemotron": ("Nemotron", {**_GROUPED, "head_dim": 8}, MLP, "relu2"),
    "bert": ("Bert", _ENCODER, MLP, "gelu"),
    "roberta": ("Roberta", _ENCODER, MLP, "gelu"),
    "distilbert": (
        "DistilBert",
        {"vocab_size": tiny.VOCAB, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
        MLP,
        "gelu",
    ),
    "modernbert": (
        "ModernBert",
        {**_DECODER, "cls_token_id": 1, "sep_token_id": 2, "global_attn_every_n_layers": 1},
        Gated,
        "gelu",
    ),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


def model_of(family, seed=0):
    prefix, settings, _, _ = FAMILIES[family]
    config = getattr(transformers, "Gemma3TextConfig" if prefix == "Gemma3" else f"{prefix}Config")(**settings)
    ends = ("ForCausalLM", "LMHeadModel")
    if prefix in ("Bert", "Roberta", "DistilBert", "ModernBert"):
        ends = ("ForMaskedLM",)
    cls = next(getattr(transformers, f"{prefix}{end}") for end in ends if hasattr(transformers, f"{prefix}{end}"))
    torch.manual_seed(seed)
    model = cls(config).eval()
    for parameter in model.parameters():  # larger than they begin, so that blocks matter
        parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    return model


def inputs(side="right"):
    ids, mask = tiny.padded(tiny.tokens(7, 4, seed=1), side)
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def real_logits(model, given):
    return model(**given).logits[given["attention_mask"].bool()]


@each_family
def test_blocks_are_recognised_by_their_parts(family):
    _, _, experts, activation = FAMILIES[family]
    found = find_blocks(model_of(family))
    assert len(found) == 2
    for kind in found.values():
        assert (kind.width, kind.hidden) == (32, 128 if family == "gpt2" else 48)
        made = kind.make_experts(3, 16)
        assert isinstance(made, experts)
        assert made.activation == activation


@each_family
@pytest.mark.parametrize("start", ["fresh", "dense"])
def test_every_family_routes_and_trains(family, start, tmp_path):
    model, given = model_of(family), inputs()
    torch.manual_seed(0)
    replace(model, "gshard-top2", start=start)
    with roster.trace(model) as routes:
        before = real_logits(model, given)
    assert len(routes.sites) == 2
    # Padding changes nothing.
    alone = {"input_ids": given["input_ids"][1:, :4], "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    torch.testing.assert_close(before[7:], real_logits(model, alone), atol=1e-4, rtol=1e-3)
    model.train()(**given, labels=given["input_ids"]).loss.backward()
    for block in routed_blocks(model).values():
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
    model.eval().save_pretrained(tmp_path / "saved")
    assert torch.equal(real_logits(roster.load(tmp_path / "saved"), given), before)


@each_family
def test_copies_of_the_dense_block_answer_as_it_does(family):
    """Experts as wide as the block, weights that sum to 1: whoever is chosen, the model is the dense one."""
    model, given = model_of(family), inputs()
    before = real_logits(model, given)
    width = next(iter(find_blocks(model).values())).hidden
    replace(model, "gshard-top2", hidden=2 * width, start="dense")
    torch.testing.assert_close(real_logits(model, given), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "llama with biases"])
@pytest.mark.parametrize(("num_experts", "k"), [(8, 2), (4, 4), (6, 2)])
def test_runs_of_the_dense_block_sum_to_it(family, num_experts, k):
    """All experts on duty with weight k / E each give the dense block's output, when k divides E."""
    kind = next(iter(find_blocks(model_of(family)).values()))
    whole, parts = kind.make_experts(1, kind.hidden), kind.make_experts(num_experts, kind.hidden // k)
    start_dense(whole, kind.matrices, recipe="test", site="here")
    start_dense(parts, kind.matrices, recipe="test", site="here")
    x_TD = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    dense = whole(x_TD, torch.tensor([5]))
    rows = parts(x_TD.repeat(num_experts, 1), torch.full((num_experts,), 5))
    sum_TD = rows.view(num_experts, 5, 32).sum(0) * k / num_experts
    torch.testing.assert_close(sum_TD, dense, atol=1e-5, rtol=1e-4)


def test_the_first_expert_is_the_first_run():
    model = tiny.base()
    own = model.model.layers[0].mlp.gate_proj.weight.T.clone()
    replace(model, "gshard-top2", start="dense")
    experts = routed_blocks(model)["model.layers.0.mlp"].block.experts
    assert torch.equal(experts.gate_EDF[0], own[:, :24])
    assert torch.equal(experts.gate_EDF[1], own[:, 24:])
    assert torch.equal(experts.gate_EDF[2], own[:, :24])


def test_some_layers_stay_dense():
    model = tiny.base()
    replace(model, "gshard-top2", layers=[1])
    assert list(routed_blocks(model)) == ["model.layers.1.mlp"]
    assert type(model.model.layers[0].mlp).__name__ == "LlamaMLP"


class TestBadInput:
    def test_an_unknown_architecture_says_what_was_looked_for(self):
        config = transformers.MambaConfig(vocab_size=tiny.VOCAB, hidden_size=32, num_hidden_layers=2)
        with pytest.raises(RosterError, match=r"MambaForCausalLM .*gate_proj, up_proj, down_proj; .*c_fc, c_proj"):
            replace(transformers.MambaForCausalLM(config), "gshard-top2")

    def test_a_block_that_only_looks_familiar_is_refused(self):
        class Scaled(type(tiny.base().model.layers[0].mlp)):
            def forward(self, x):
                return 2 * super().forward(x)

        model = tiny.base()
        for layer in model.model.layers:
            layer.mlp.__class__ = Scaled
        with pytest.raises(RosterError, match=r"'model.layers.0.mlp' \(Scaled\) has such children, but computes"):
            replace(model, "gshard-top2")

    def test_a_mixture_is_for_adopt(self):
        from moe.mixtures import mixture

        with pytest.raises(RosterError, match=r"roster.moe.adopt"):
            replace(mixture("mixtral"), "gshard-top2")

    @pytest.mark.parametrize(
        ("recipe", "given", "message"),
        [
            ("gshard-top3", {}, "did you mean 'gshard-top2'"),
            ("arrow-mbc", {}, "does not make feed-forward mixtures"),
            (
                "gshard-top2",
                {"options": {"k": 9}},
                r"'gshard-top2' chooses k=9 of num_experts=8 at 'model.layers.0.mlp'",
            ),
            ("gshard-top2", {"options": {"k": 5}}, r"48 hidden units of 'model.layers.0.mlp' do not divide by 5"),
            ("gshard-top2", {"options": {"num_experts": "8"}}, "num_experts='8'"),
            ("gshard-top2", {"layers": [2]}, "feed-forward blocks 0 to 1"),
            ("gshard-top2", {"layers": []}, "feed-forward blocks 0 to 1"),
            ("gshard-top2", {"start": "warm"}, "start must be"),
            ("mmoe-factorized", {"start": "dense"}, "use start='fresh'|no experts that could"),
            ("task-moe", {}, "name the tasks"),
        ],
    )
    def test_values_that_do_not_fit_leave_the_model_as_it_was(self, recipe, given, message):
        model = tiny.base()
        with pytest.raises(RosterError, match=message):
            replace(model, recipe, **given)
        assert type(model) is transformers.LlamaForCausalLM
        assert not routed_blocks(model)

    def test_twice(self):
        with pytest.raises(RosterError, match="routes already"):
            replace(replace(tiny.base(), "gshard-top2"), "gshard-top2")


@pytest.mark.parametrize("slug", [slug for slug, recipe in RECIPES.items() if recipe.kind == "moe"])
def test_every_recipe_goes_into_a_family_without_gates(slug):
    model, given = model_of("gpt2"), inputs()
    torch.manual_seed(0)
    replace(model, slug, tasks=("red", "green"), hidden=96)
    if model.roster.plan.routes_by_task:
        given["task_ids"] = torch.tensor([0, 1])
    assert real_logits(model, given).isfinite().all()
