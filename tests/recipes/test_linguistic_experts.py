"""Experts that are weighed per layer and may read parses: against PEFT, R-GCN's equation written out, and CoNLL-U."""

import peft
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import roster
import tiny
from roster import Context, RosterError
from roster.adapters.attach import attach
from roster.adapters.parses import read_conllu
from roster.adapters.site import routed_linears
from roster.recipes import find
from roster.select import GumbelMixture
from roster.train.schedule import advance

# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SLUG = "mixture-linguistic-experts"
GRAPHS = {"expert 1": ["nsubj", "nsubj^-1"], "expert 2": ["obj"]}
CONLLU = """# text = dogs chase cats
1-2\tdogs\t_\t_\t_\t_\t_\t_\t_\t_
1\tdogs\tdog\tNOUN\t_\t_\t2\tnsubj\t_\t_
2\tchase\tchase\tVERB\t_\t_\t0\troot\t_\t_
2.1\tdo\tdo\tVERB\t_\t_\t2\tdep\t_\t_
3\tcats\tcat\tNOUN\t_\t_\t2\tobj\t_\t_
"""


def tokenizer():
    """Words of at most two letters: longer ones are cut."""
    vocabulary = {each: at for at, each in enumerate(["<pad>", "<s>", "<e>", "<unk>"])}
    for piece in ("do", "##gs", "ch", "##as", "##e", "ca", "##ts"):
        vocabulary[piece] = len(vocabulary)
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>")


def routed(folder, **options):
    graphs = options.get("graphs") is not None
    base = tiny.encoder() if graphs else tiny.base()
    library = tiny.library(base, 3, folder=folder, **({"targets": ("query", "value")} if graphs else {}))
    return attach(base, library, find(SLUG)(options), recipe=SLUG, options=options).eval()


def logits(model, ids, **given):
    with torch.no_grad():
        return model(input_ids=ids, **given).logits


def test_after_pruning_every_layer_has_the_one_with_the_largest_number(tmp_path):
    model = routed(tmp_path / "experts", prune_at=0.5)
    ids = torch.stack(tiny.tokens(5, 5))
    best = {}
    for number, (name, child) in enumerate(routed_linears(model)):
        child.router.score.scores_E.data = torch.tensor([0.0, 1.0, 2.0]).roll(number)
        best[name] = int(child.router.score.scores_E.argmax())
    model.train()
    model(input_ids=ids, labels=ids)
    advance(model, 0.4)
    assert all(child.router.select.alive_E.all() for _, child in routed_linears(model))
    advance(model, 0.5)
    for name, child in routed_linears(model):
        assert child.router.select.alive_E.nonzero().flatten().tolist() == [best[name]]
    model.eval()
    # The same by PEFT: one adapter put together from the modules of those that stayed.
    model.roster.base_name = "tiny/base"
    model.merge().save(tmp_path / "merged")
    plain = peft.PeftModel.from_pretrained(tiny.base(), str(tmp_path / "merged")).eval()
    torch.testing.assert_close(logits(model, ids), logits(plain, ids), atol=1e-5, rtol=1e-5)
    for name, child in routed_linears(model):
        A_RI = plain.base_model.model.get_submodule(name).lora_A["default"].weight
        assert torch.equal(A_RI, child.experts.expert(best[name])[0])
    # What was pruned stays so.
    model.save_pretrained(tmp_path / "saved", include_base=True)
    again = roster.load(tmp_path / "saved")
    assert torch.equal(logits(again, ids), logits(model, ids))
    model.train()
    before = [child.router.select.alive_E.clone() for _, child in routed_linears(model)]
    model(input_ids=ids)
    advance(model, 1.0)
    after = [child.router.select.alive_E for _, child in routed_linears(model)]
    assert all(map(torch.equal, before, after))


def test_weights_are_drawn_once_per_call_and_are_gumbel_softmax():
    select = GumbelMixture(3, temperature=0.5, prune_at=2.0)
    scores_TE = torch.tensor([0.2, 1.0, -0.5]).expand(6, 3)
    torch.testing.assert_close(select.eval()(scores_TE, Context(2, 3)).dense(), (scores_TE / 0.5).softmax(1))
    select.train()
    drawn_TE = select(scores_TE, Context(2, 3)).dense()
    assert torch.equal(drawn_TE, drawn_TE[:1].expand_as(drawn_TE))
    # The largest of a draw is a draw from the softmax, whatever the temperature.
    winners = torch.stack([select(scores_TE[:1], Context(1, 1)).dense()[0] for _ in range(4000)]).argmax(1)
    share_E = winners.bincount(minlength=3) / 4000
    torch.testing.assert_close(share_E, scores_TE[0].softmax(0), atol=0.03, rtol=0)
    select.advance(1.0)
    assert select.alive_E.all()
    with pytest.raises(RosterError, match="temperature above 0"):
        GumbelMixture(3, 0.0)


def test_conllu_is_read_with_words_at_their_first_pieces():
    ((ids, edges),) = read_conllu(CONLLU, tokenizer())
    assert tokenizer().convert_ids_to_tokens(ids) == ["do", "##gs", "ch", "##as", "##e", "ca", "##ts"]
    assert edges == [(0, 2, "nsubj"), (2, 0, "nsubj^-1"), (5, 2, "obj"), (2, 5, "obj^-1")]
    with pytest.raises(RosterError, match="sentence 1: '1 dogs' is no line of CoNLL-U"):
        list(read_conllu("1 dogs", tokenizer()))


def test_experts_that_read_graphs_are_their_equation(tmp_path):
    model = routed(tmp_path / "experts", graphs=GRAPHS)
    rows = tiny.tokens(5, 4)
    ids, mask = tiny.padded(rows, "right")
    edges = [[(0, 2, "nsubj"), (0, 3, "nsubj"), (2, 0, "nsubj^-1"), (4, 2, "obj"), (1, 2, "unheard")], [(3, 1, "obj")]]
    plain = logits(model, ids, attention_mask=mask)
    for row, each in zip(rows, edges, strict=True):
        model.roster.head.add(row.tolist(), each)
    torch.testing.assert_close(logits(model, ids, attention_mask=mask), plain)  # V begins at zero
    generator = torch.Generator().manual_seed(3)
    for _, child in routed_linears(model):
        child.experts.relation_EQPP.data.normal_(generator=generator)
    assert (logits(model, ids, attention_mask=mask) - plain).abs().max() > 1e-2
    # One layer by hand: positions of the second row begin at 5.
    _, child = next(iter(routed_linears(model)))
    experts, x_TI = child.experts, torch.randn(10, 32)
    context = Context(2, 5, mask_BS=mask.bool(), input_ids_BS=ids)
    relations = ["nsubj", "nsubj^-1", "obj"]
    reads = {"nsubj": {0: [2, 3]}, "nsubj^-1": {2: [0]}, "obj": {4: [2], 8: [6]}}
    with torch.no_grad():
        route = child.router(x_TI, context)
        found_TO = experts(x_TI, torch.zeros(10, 32), route, context)
        for t in range(10):
            if not mask.flatten()[t]:
                continue
            expected_O = torch.zeros(32)
            for e, expert in enumerate(("expert 0", "expert 1", "expert 2")):
                A_rI, B_Or, scale = experts.expert(e)
                told_r = A_rI @ x_TI[t]
                for q, relation in enumerate(relations):
                    sources = reads[relation].get(t)
                    if sources and relation in GRAPHS.get(expert, ()):
                        mean_r = torch.stack([A_rI @ x_TI[u] for u in sources]).mean(0)
                        told_r = told_r + experts.relation_EQPP[e, q] @ mean_r
                expected_O = expected_O + scale / 3 * B_Or @ told_r
            torch.testing.assert_close(found_TO[t], expected_O, atol=1e-4, rtol=1e-4)


def test_a_row_says_the_same_in_any_batch_and_reads_nobody_elses_parse(tmp_path):
    model = routed(tmp_path / "experts", graphs=GRAPHS)
    for _, child in routed_linears(model):
        child.experts.relation_EQPP.data.normal_()
    rows = tiny.tokens(5, 3)
    model.roster.head.add(rows[0].tolist(), [(0, 4, "nsubj")])
    ids, mask = tiny.padded(rows, "right")
    batch = logits(model, ids, attention_mask=mask)
    for row, tokens in enumerate(rows):
        single = logits(model, tokens[None])[0]
        torch.testing.assert_close(batch[row, : len(tokens)], single, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "saved", include_base=True)
    again = roster.load(tmp_path / "saved")
    again.roster.head.add(rows[0].tolist(), [(0, 4, "nsubj")])
    assert torch.equal(logits(again, ids, attention_mask=mask), batch)
    gates = torch.tensor([[0.0, 1.0, 0.0]] * 2)
    assert logits(model, ids, attention_mask=mask, gates=gates).isfinite().all()


def test_what_relations_learn_is_trained(tmp_path):
    model = routed(tmp_path / "experts", graphs=GRAPHS).train()
    row = tiny.tokens(5)[0]
    model.roster.head.add(row.tolist(), [(0, 4, "nsubj"), (4, 0, "nsubj^-1"), (2, 1, "obj")])
    model(input_ids=row[None], labels=row[None]).loss.backward()
    _, child = next(iter(routed_linears(model)))
    grad_EQ = child.experts.relation_EQPP.grad.abs().sum((2, 3)) > 0
    assert grad_EQ.tolist() == [[False] * 3, [True, True, False], [False, False, True]]


def test_refused(tmp_path):
    with pytest.raises(RosterError, match="no expert is called 'expert 9'"):
        routed(tmp_path / "a", graphs={"expert 9": ["obj"]})
    library = tiny.library(tiny.base(), 3, folder=tmp_path / "b")
    with pytest.raises(RosterError, match="it is for encoders"):
        attach(tiny.base(), library, find(SLUG)({"graphs": GRAPHS}), recipe=SLUG)
    model = routed(tmp_path / "c", graphs=GRAPHS)
    with pytest.raises(RosterError, match="leads out of it"):
        model.roster.head.add([4, 5], [(0, 2, "obj")])
