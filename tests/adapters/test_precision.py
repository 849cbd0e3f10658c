"""What a mixture computes in: the type of the layer, never that of weights at rest; float32 where PEFT has it."""

from dataclasses import replace

import peft
import pytest
import torch
import transformers
from torch import nn

import tiny
from roster.adapters.attach import attach
from roster.adapters.site import routed_linears
from roster.library import Library
from roster.recipes import RECIPES

# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SLUGS = ("uniform", "arrow-mbc", "x-lora", "smear", "polytropon", "mov-molora")
IDS = torch.stack(tiny.tokens(7, 7, 7, seed=3))


def routed(model, slug, library=None):
    library = tiny.library(tiny.base()) if library is None else library
    torch.manual_seed(0)
    return attach(model, library, RECIPES[slug](), recipe=slug).eval()


def answer(model):
    by_task = hasattr(model, "roster") and model.roster.plan.routes_by_task
    given = {"task_ids": torch.zeros(3, dtype=torch.long)} if by_task else {}
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False, **given).logits


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_half_precision_base_has_no_more_error_than_peft(stored, tmp_path):
    """One adapter on a base in bfloat16, against the same in float64."""
    library = tiny.library(tiny.base(), 1, folder=tmp_path, scales=[8.0])
    exact = answer(routed(tiny.base().double(), "uniform", library))
    ours = routed(tiny.base().to(torch.bfloat16), "uniform", library)
    theirs = peft.PeftModel.from_pretrained(tiny.base().to(torch.bfloat16), tmp_path / "expert 0")
    error = (answer(ours) - exact).abs().mean()
    assert error <= 1.05 * (answer(theirs) - exact).abs().mean()
    assert answer(ours).dtype == torch.bfloat16


class Float8(nn.Module):
    """As transformers' FP8Linear: weights at rest in eight floating-point bits, computing in the type of its input."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = nn.Parameter(linear.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype))


class Packed(nn.Module):
    """As GPTQ's, AWQ's and HQQ's layers: no parameter and nothing called weight."""

    def __init__(self, linear, names=("in_features", "out_features")):
        super().__init__()
        for name, value in zip(names, (linear.in_features, linear.out_features), strict=True):
            setattr(self, name, value)
        self.register_buffer("qweight", linear.weight.detach().half().view(torch.int16))

    def forward(self, x):
        return nn.functional.linear(x, self.qweight.view(torch.float16).to(x.dtype))


def packed_old(linear):
    return Packed(linear, ("infeatures", "outfeatures"))


@pytest.mark.parametrize("kind", [Float8, Packed, packed_old])
@pytest.mark.parametrize("slug", ["uniform", "arrow-mbc"])
def test_storage_is_not_what_is_computed_in(slug, kind):
    """The update is exact beside a layer whose weights are stored in a few bits."""
    model = tiny.base()
    library = tiny.library(model)
    name = "model.layers.1.self_attn.q_proj"
    for each, _ in list(model.named_modules()):
        if each.endswith("_proj"):
            model.set_submodule(each, kind(model.get_submodule(each)))
    model = routed(model, slug, library)
    for _, child in routed_linears(model):
        assert child.experts.A_RI.dtype == torch.float32
    seen = []
    layer = model.get_submodule(name)
    layer.register_forward_hook(lambda layer, args, output: seen.append((args[0], output)))
    answer(model)
    if slug == "uniform":
        x, y = seen[0]
        updates = [library[expert].modules[name] for expert in library.names]
        expected = type(layer).forward(layer, x) + sum(u.scale * x @ u.A_RD.T @ u.B_OR.T for u in updates) / 4
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slug", SLUGS)
@pytest.mark.parametrize("training", [False, True])
def test_autocast(slug, training):
    """Inference and training under autocast; the answer is that of float32 up to bfloat16's rounding."""
    model = routed(tiny.base(), slug).train(training and slug != "polytropon")
    torch.manual_seed(0)  # for recipes that drop experts
    wanted = answer(model)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = answer(model)
    assert (found - wanted).abs().median() < 0.05 * wanted.abs().max()
    out = model.eval()
    if not RECIPES[slug].needs or "tasks" not in RECIPES[slug].needs:
        with torch.autocast("cpu", torch.bfloat16):
            generated = out.generate(input_ids=IDS, max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert generated.shape == (3, 10)


def test_a_trainer_in_bf16_evaluates(tmp_path):
    model = routed(tiny.base(), "x-lora")
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        bf16=True,
        use_cpu=True,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        report_to=[],
        logging_steps=1,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert all(torch.isfinite(torch.tensor(e["eval_loss"])) for e in trainer.state.log_history if "eval_loss" in e)


def test_a_library_of_mixed_types_keeps_the_widest(tmp_path):
    library = tiny.library(tiny.base(), 2)
    first = library["expert 0"]
    cut = {n: replace(u, A_RD=u.A_RD.bfloat16(), B_OR=u.B_OR.bfloat16()) for n, u in first.modules.items()}
    mixed = Library({**library, "expert 0": replace(first, modules=cut)})
    for given, wanted in ((mixed, torch.float32), (Library({"expert 0": mixed["expert 0"]}), torch.bfloat16)):
        for _, child in routed_linears(routed(tiny.base().to(torch.bfloat16), "uniform", given)):
            assert child.experts.A_RI.dtype == wanted
