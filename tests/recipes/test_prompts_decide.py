"""Recipes in which the prompt decides, or has a say: against the equations written out, PEFT, and their siblings."""

import peft
import pytest
import torch
from torch.nn import functional as F

import tiny
from roster import Context, RosterError
from roster.adapters.attach import attach
from roster.adapters.exporting import clusters_of, export_clusters
from roster.adapters.site import routed_linears
from roster.auto.features import features_of
from roster.context import DECISION
from roster.library import Library
from roster.recipes import find
from roster.router import Router
from roster.score import Constant
from roster.select import Universal

# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
EXAMPLES = [["aab", "bab"], ["xyz", "zyx", "yyz"], ["12 3", "3 21"], ["(.;", ".;("]]


@pytest.fixture
def library(tmp_path):
    """Four experts with gates, whose prompts are of four alphabets."""
    made = tiny.library(tiny.base(), 4, folder=tmp_path / "experts")
    for adapter, examples in zip(made.values(), EXAMPLES, strict=True):
        adapter.card.examples[:] = examples
    return made


def routed(slug, library, **options):
    torch.manual_seed(0)
    model = attach(tiny.base(), library, find(slug)(options), recipe=slug, options=options, tokenizer=tiny.Tokenizer())
    return model.eval()


def ids_of(text):
    return torch.tensor([tiny.Tokenizer()(text)["input_ids"]])


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def means(prompts, block):
    """Mean hidden states of the plain base, as transformers gives them; the first token is left out."""
    with torch.no_grad():
        states = [tiny.base()(input_ids=ids_of(p), output_hidden_states=True).hidden_states[block] for p in prompts]
    return torch.stack([each[0, 1:].mean(0) for each in states])


def nearness(prompt, block):
    """cos(q - m, d_e - m), written out."""
    d_ED = torch.stack([means(each, block).mean(0) for each in EXAMPLES])
    (q_D,) = means([prompt], block)
    return F.cosine_similarity(q_D - d_ED.mean(0), d_ED - d_ED.mean(0), dim=1)


def test_glider_is_its_equation(library):
    model = routed("glider", library, scale=7.0, layer=1)
    ids = ids_of("zzy")
    found = {}
    for name, child in routed_linears(model):
        child.router.register_forward_hook(lambda _, args, route, name=name: found.update({name: (args[0], route)}))
    logits(model, ids)
    assert len(found) == 10
    global_E = nearness("zzy", 1)
    for name, (x_TI, route) in found.items():
        # Equal to PHATGOOSE's product of standardised vectors over sqrt(I), and to within a half-precision feature.
        gates_EI = torch.stack([_gates(library[each])[name] for each in library.names])
        standard = [F.layer_norm(each, each.shape[-1:], eps=0.0) for each in (x_TI, gates_EI)]
        scores_TE = standard[0] @ standard[1].T / x_TI.shape[1] ** 0.5 + 7.0 * global_E
        torch.testing.assert_close(route.scores_TE, scores_TE, atol=2e-2, rtol=0)
        top = route.scores_TE.topk(2, dim=1)
        expected = torch.zeros_like(scores_TE).scatter(1, top.indices, top.values.softmax(1))
        torch.testing.assert_close(route.dense(), expected, atol=1e-6, rtol=1e-5)


def _gates(adapter):
    from safetensors.torch import load_file

    return load_file(adapter.path / "gates.safetensors")


def test_glider_without_the_global_term_is_phatgoose(library):
    ids = ids_of("zzy 12")
    torch.testing.assert_close(
        logits(routed("glider", library, scale=0.0), ids), logits(routed("phatgoose", library), ids)
    )


def test_glider_at_a_large_scale_goes_by_the_prompt(library):
    model = routed("glider", library, scale=1e6, top_k=1, layer=1)
    for expert, examples in enumerate(EXAMPLES):
        plain = peft.PeftModel.from_pretrained(tiny.base(), str(library[f"expert {expert}"].path)).eval()
        ids = ids_of(examples[0])
        torch.testing.assert_close(logits(model, ids), logits(plain, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("top_k", [1, 2, 9])
def test_adapter_soup_is_pefts_average_of_the_nearest(top_k, library):
    model = routed("adapter-soup", library, top_k=top_k, layer=1)
    prompt = "zzy"
    names = [library.names[e] for e in nearness(prompt, 1).topk(min(top_k, 4)).indices.tolist()]
    theirs = peft.PeftModel.from_pretrained(tiny.base(), str(library[names[0]].path), adapter_name=names[0])
    for name in names[1:]:
        theirs.load_adapter(str(library[name].path), adapter_name=name)
    theirs.add_weighted_adapter(names, [1 / len(names)] * len(names), "soup", combination_type="cat")
    theirs.set_adapter("soup")
    torch.testing.assert_close(
        logits(model, ids_of(prompt)), logits(theirs.eval(), ids_of(prompt)), atol=1e-5, rtol=1e-5
    )


def test_features_are_those_of_transformers(library):
    """What the prompts are compared by is what `output_hidden_states` shows, to half precision."""
    model, prompts = tiny.base(), [prompt for each in EXAMPLES for prompt in each]
    rendering = routed("adapter-soup", library).roster.rendering
    found = features_of(model, rendering, torch.tensor([-1]), prompts, [(1, "mean")])[:, 0]
    torch.testing.assert_close(found.float(), means(prompts, 1), atol=2e-3, rtol=2e-3)


def test_the_universal_expert_takes_what_is_left():
    torch.manual_seed(0)
    scores_TE = torch.randn(5, 4)
    gate_TE = Universal(2, temperature=0.5)(scores_TE, Context(1, 5)).dense()
    for gate_E, scores_E in zip(gate_TE, scores_TE, strict=True):
        others = [0, 1, 3]
        p = torch.softmax(scores_E[others] / 0.5, 0)
        expected = torch.zeros(4)
        expected[others[int(p.argmax())]] = p.max()
        expected[2] = 1 - p.max()
        torch.testing.assert_close(gate_E, expected)
    torch.testing.assert_close(Universal()(scores_TE, Context(1, 5)).dense().sum(1), torch.ones(5))


def test_mocles_noise_is_one_draw_per_row():
    select = Universal(None, temperature=1.0, noise=1.0).train()
    gate_BSE = Router(Constant(torch.zeros(4)), select)(torch.zeros(12, 0), Context(3, 4)).dense().view(3, 4, 4)
    assert torch.equal(gate_BSE, gate_BSE[:, :1].expand_as(gate_BSE))
    assert not torch.equal(gate_BSE[0], gate_BSE[1])


@pytest.mark.parametrize("universal", [None, "expert 3"])
def test_mocles_clusters_are_plain_adapters(universal, library, tmp_path):
    """Each prompt is answered as PEFT answers it with its cluster's adapter alone."""
    model = routed("mocle", library, clusters=3, universal=universal, layer=1, width=8)
    paths = export_clusters(model, tmp_path / "clusters")
    assert [path.name for path in paths] == ["cluster 00", "cluster 01", "cluster 02"]
    prompts = [examples[0] for examples in EXAMPLES]
    seen = clusters_of(model, *prompts)
    assert len(set(seen)) == 3
    for prompt, cluster in zip(prompts, seen, strict=True):
        plain = peft.PeftModel.from_pretrained(tiny.base(), str(paths[cluster])).eval()
        ids = ids_of(prompt)
        torch.testing.assert_close(logits(model, ids), logits(plain, ids), atol=1e-5, rtol=1e-5)
        other = peft.PeftModel.from_pretrained(tiny.base(), str(paths[cluster - 1])).eval()
        assert (logits(model, ids) - logits(other, ids)).abs().max() > 1e-3


def test_what_is_no_mixture_by_clusters_is_not_exported(library, tmp_path):
    with pytest.raises(RosterError, match="does not serve a prompt by its cluster alone"):
        export_clusters(routed("intuition-mor1e", library), tmp_path / "clusters")


def test_more_clusters_than_examples_are_fewer_clusters(library):
    assert len(routed("mocle", library, clusters=100).roster.head.vectors_ND) == 9


def test_intuition_is_its_equation(library):
    model = routed("intuition-mor1e", library, k=5, clusters=3, scale=4.0, layer=1)
    head, q_BC = model.roster.head, torch.tensor([[0.2, 0.5, 0.3]])
    decision = torch.stack([torch.arange(3.0)[None], q_BC], dim=1)
    name, child = next(iter(routed_linears(model)))
    tokens, intuition = child.router.score.parts
    x_TI, y_TO = torch.randn(4, 32), torch.zeros(4, 32)
    with torch.no_grad():
        route = child.router(x_TI, Context(1, 4, memory={DECISION: decision}))
        found_TO = child.experts(x_TI, y_TO, route)
        A_RI = torch.cat([library[each].modules[name].A_RD for each in library.names])
        B_OR = torch.cat([library[each].modules[name].B_OR for each in library.names], dim=1)
        W_RI, M_RV = tokens.weight_ERD.flatten(0, 1), intuition.weight_ERV.flatten(0, 1)
        v_V = sum(q * vector for q, vector in zip(q_BC[0], intuition.vectors_CV[:3], strict=True))
        for x_I, found_O in zip(x_TI, found_TO, strict=True):
            p_R = torch.softmax(W_RI @ x_I + M_RV @ v_V, 0)
            chosen = p_R.argsort(descending=True)[:5]
            g_R = torch.zeros_like(p_R)
            g_R[chosen] = p_R[chosen] / p_R[chosen].sum()
            # Scale 2 at rank 4 is an alpha of 8.
            torch.testing.assert_close(found_O, 8.0 * B_OR @ (g_R * (A_RI @ x_I)), atol=1e-4, rtol=1e-4)
    # What the head says of a prompt: a softmax over its cosines to the centres.
    (q_D,) = means(["zzy"], 1)
    cosines = F.cosine_similarity(q_D - head.center_D, head.vectors_ND, dim=1)
    torch.testing.assert_close(head(q_D[None])[0, 1], torch.softmax(4.0 * cosines, 0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("slug", "options", "says"),
    [
        ("glider", {"layer": 3}, "blocks 1 to 2"),
        ("mocle", {"universal": "expert 9"}, "no expert is called 'expert 9'"),
        ("mocle", {"clusters": 0}, "at least 1 cluster"),
        ("mocle", {"temperature": 0.0}, "temperature above 0"),
        ("adapter-soup", {"top_k": 0}, "k >= 1"),
        ("intuition-mor1e", {"clusters": 0}, "at least 1 cluster"),
    ],
)
def test_bad_options_are_refused(slug, options, says, library):
    with pytest.raises(RosterError, match=says):
        routed(slug, library, **options)


def test_examples_are_needed(tmp_path):
    bare = tiny.library(tiny.base(), 2, folder=tmp_path / "bare")
    for adapter in bare.values():
        adapter.card.examples.clear()
    for slug in ("glider", "adapter-soup", "mocle", "intuition-mor1e"):
        with pytest.raises(RosterError, match="needs example prompts"):
            routed(slug, Library(bare))
