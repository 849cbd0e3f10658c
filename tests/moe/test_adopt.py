"""Existing mixtures as routed models: the same answers, traced, with other routers, and written back."""

import copy

import pytest
import torch
import transformers
from torch import nn

import roster
import tiny
from moe.mixtures import CAUSAL, MIXTURES, given, mixture
from roster.errors import RosterError
from roster.moe import adopt, export
from roster.moe.adopting import adopted_sites, find_experts
from roster.routed.model import routers
from roster.router import Router
from roster.score import Linear
from roster.select import TopK, TopP

each_mixture = pytest.mark.parametrize("name", MIXTURES)


def run(model, inputs):
    """(logits, loss, gradients by name)"""
    model.zero_grad()
    out = model(**inputs)
    out.loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return out.logits.detach(), out.loss.detach(), grads


@each_mixture
@pytest.mark.parametrize("training", [False, True])
def test_adopting_changes_nothing(name, training):
    model, inputs = mixture(name).train(training), given(name)
    names, before = list(model.state_dict()), run(model, inputs)
    assert adopt(model) is model
    after = run(model, inputs)
    torch.testing.assert_close(after[0], before[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[1], before[1], atol=1e-6, rtol=1e-6)
    assert after[2].keys() == before[2].keys()
    for each, grad in before[2].items():
        torch.testing.assert_close(after[2][each], grad, atol=1e-5 * float(grad.abs().max()) + 1e-7, rtol=1e-4)
    assert list(model.state_dict()) == names
    base = type(model).base_class
    assert isinstance(model, base)
    assert base.__name__.startswith(MIXTURES[name][0])


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe", "gpt_oss", "switch"])
def test_router_losses_of_the_model_go_on(name):
    """Auxiliary and z-losses are the model's own and see the same logits."""
    model, inputs = mixture(name), {**given(name), "output_router_logits": True}
    plain = model(**given(name)).loss.detach()
    before = run(model, inputs)
    assert float(before[1]) != float(plain)
    after = run(adopt(model), inputs)
    torch.testing.assert_close(after[1], before[1], atol=1e-6, rtol=1e-6)
    gates = [each for each in before[2] if "gate.weight" in each or "router" in each]
    assert gates
    for each in gates:
        torch.testing.assert_close(after[2][each], before[2][each], atol=1e-6, rtol=1e-4)


@each_mixture
def test_traces_show_the_decisions_of_the_gate(name):
    model, inputs = mixture(name), given(name)
    seen = {}
    for each, block in find_experts(model).items():

        def keep(experts, args, each=each):
            seen.setdefault(each, []).append(args)

        block.experts.register_forward_pre_hook(keep)
    adopt(model)
    seen.clear()  # a trial of the blocks may have called them
    with roster.trace(model) as routes, torch.no_grad():
        model(**inputs)
    traced = [each for each in seen if not each.startswith("decoder")]
    assert list(routes.sites) == traced
    for each in traced:
        ((_, chosen, weight),) = seen[each]
        route = adopted_sites(model)[each].reader.route(model.get_submodule(each).experts, chosen, weight)
        gates = route.dense().view(2, 7, -1)
        for row, length in enumerate((7, 4)):
            torch.testing.assert_close(routes.gates(each, row)[:length], gates[row, :length].float())


def test_both_sides_of_a_decoder_with_an_encoder():
    """`generate` calls the encoder by itself and the decoder step by step."""
    model = mixture("switch")
    ids, mask = tiny.padded(tiny.tokens(7, 4, seed=1), "right")
    options = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    before = model.generate(**options)
    assert torch.equal(adopt(model).generate(**options), before)
    other = adopt(mixture("switch"), "switch-transformer")
    assert other.generate(**options).shape[0] == 2
    loss = other.train()(**given("switch")).loss
    loss.backward()
    assert all(site.block.router.score.weight_ED.grad is not None for site in adopted_sites(other).values())


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "gpt_oss", "switch"])
@pytest.mark.parametrize("recipe", ["gshard-top2", "x-moe"])
def test_another_router_over_the_same_experts(name, recipe):
    model, inputs = mixture(name), given(name)
    experts = {each: p.detach().clone() for each, p in model.named_parameters() if ".experts." in each}
    torch.manual_seed(0)
    adopt(model, recipe)
    assert model.roster.options["num_experts"] == 8
    _, _, grads = run(model.train(), inputs)
    state = model.state_dict()
    assert all(torch.equal(state[each], tensor) for each, tensor in experts.items())
    for site, router in routers(model):
        own = [p for p in router.parameters() if p.requires_grad]
        assert own
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in own), site
    assert grads.keys() & experts.keys()
    assert not any(".gate." in each or ".router.weight" in each or "classifier" in each for each in grads)


def test_padding_and_batch_mates_change_nothing_under_another_router():
    torch.manual_seed(0)
    model = adopt(mixture("mixtral"), "gshard-top2")
    ids, mask = tiny.padded(tiny.tokens(7, 4, seed=1), "left")
    with torch.no_grad():
        both = model(input_ids=ids, attention_mask=mask).logits
        alone = model(input_ids=ids[1:, 3:]).logits
    torch.testing.assert_close(both[1, 3:], alone[0], atol=2e-5, rtol=1e-4)


def test_one_part_of_the_own_router_is_changed_in_one_line():
    inputs = given("mixtral")
    before = mixture("mixtral")(**inputs).logits
    model = adopt(mixture("mixtral"), lambda place: Router(place.own.score, place.own.select))
    torch.testing.assert_close(model(**inputs).logits[0], before[0], atol=1e-5, rtol=1e-4)
    model = adopt(mixture("mixtral"), lambda place: Router(place.own.score, TopP(0.6)))
    with roster.trace(model) as routes, torch.no_grad():
        model(**inputs)
    counts = (routes.gates(routes.sites[0], 0) > 0).sum(1)
    assert counts.min() >= 1
    assert len(counts.unique()) > 1


@pytest.mark.parametrize("name", CAUSAL)
def test_saved_and_reloaded(name, tmp_path):
    model, inputs = adopt(mixture(name)), given(name, "left")
    model.save_pretrained(tmp_path / "own")
    again = roster.load(tmp_path / "own")
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert list(again.state_dict()) == list(model.state_dict())
    assert not list(tmp_path.glob(".own*"))


def test_another_router_is_saved_and_reloaded(tmp_path):
    torch.manual_seed(0)
    model, inputs = adopt(mixture("qwen3_moe"), "x-moe"), given("qwen3_moe")
    model.save_pretrained(tmp_path / "own")
    again = roster.load(tmp_path / "own")
    assert again.roster.options == model.roster.options
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    custom = adopt(mixture("qwen3_moe"), lambda place: Router(Linear(place.width, 8), TopK(1)))
    with pytest.raises(RosterError, match="made by a function"):
        custom.save_pretrained(tmp_path / "custom")
    assert not (tmp_path / "custom").exists()


@each_mixture
def test_written_back_as_what_it_was(name, tmp_path):
    model, inputs = mixture(name), given(name)
    with torch.no_grad():
        before = model(**inputs).logits
    architecture = type(model).__name__
    assert export(adopt(model), tmp_path / "plain") == architecture
    auto = transformers.AutoModelForSeq2SeqLM if name == "switch" else transformers.AutoModelForCausalLM
    again = auto.from_pretrained(tmp_path / "plain").eval()
    assert type(again) is getattr(transformers, architecture)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, before, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("name", "recipe"), [("mixtral", "gshard-top2"), ("gpt_oss", "gshard-top2")])
def test_another_router_of_the_same_form_is_written_back(name, recipe, tmp_path):
    torch.manual_seed(0)
    model, inputs = adopt(mixture(name), recipe), given(name)
    export(model, tmp_path / "plain")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits[real], model(**inputs).logits[real], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "part"), [("x-moe", "Hyperspherical"), ("switch-transformer", "Linear with TopK .*MixtralTopKRouter")]
)
def test_a_router_that_the_architecture_cannot_express_is_named(recipe, part, tmp_path):
    model = adopt(mixture("mixtral"), recipe)
    with pytest.raises(RosterError, match=rf"{part}") as error:
        export(model, tmp_path / "plain")
    assert "model.layers.0.mlp" in str(error.value)
    assert "save_pretrained" in str(error.value)
    assert not (tmp_path / "plain").exists()


def test_a_copy_is_independent():
    model = adopt(mixture("mixtral"))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        assert model(**given("mixtral")).logits.abs().sum() > 0
        assert twin(**given("mixtral")).logits.abs().sum() == 0


class TestBadInput:
    def test_no_mixture(self):
        model = tiny.base()
        with pytest.raises(RosterError, match=r"no mixture .* LlamaForCausalLM: looked for .*gate_up_proj.*replace"):
            adopt(model)
        assert type(model) is transformers.LlamaForCausalLM

    def test_twice(self):
        with pytest.raises(RosterError, match="routes already"):
            adopt(adopt(mixture("mixtral")))

    @pytest.mark.parametrize(
        ("router", "options", "message"),
        [
            ("gshard-top3", {}, "did you mean 'gshard-top2'"),
            ("arrow-mbc", {}, "does not route feed-forward experts"),
            ("gshard-top2", {"num_experts": 4}, "wants 4 experts at 'model.layers.0.mlp', where the model has 8"),
            ("gshard-top2", {"k": 9}, "k=9 of num_experts=8"),
            ("gshard-top2", {"experts": 4}, "has no option 'experts'"),
            ("task-moe", {}, "name the tasks"),
            ("deepseekmoe", {}, "wants 1 experts"),
            (None, {"k": 2}, "options= are a recipe's"),
            (lambda place: nn.Linear(2, 2), None, "must return a roster.Router"),
            (lambda place: Router(Linear(place.width, 4), TopK(2)), None, "chooses among 4 experts; the model has 8"),
        ],
    )
    def test_routers_that_do_not_fit(self, router, options, message):
        model = mixture("mixtral")
        with pytest.raises(RosterError, match=message):
            adopt(model, router, options=options)
        assert type(model) is transformers.MixtralForCausalLM
        assert not adopted_sites(model)
        model(**given("mixtral"))

    def test_an_own_router_that_is_not_of_parts(self):
        with pytest.raises(RosterError, match="PhimoeTopKRouter"):
            adopt(mixture("phimoe"), lambda place: place.own)

    def test_exporting_over_something(self, tmp_path):
        (tmp_path / "note").write_text("mine", encoding="utf-8")
        with pytest.raises(RosterError, match="is there already"):
            export(adopt(mixture("mixtral")), tmp_path)
        with pytest.raises(RosterError, match="only a model with routed blocks"):
            export(mixture("mixtral"), tmp_path / "new")
