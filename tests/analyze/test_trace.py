"""The trace's joins and statistics, against small cases counted by hand."""

import io
import json
import math

import pytest
import torch
from rich.console import Console

from roster.analyze.layers import group_by_layer, layer_of
from roster.analyze.trace import Trace
from roster.errors import RosterError

UP, DOWN, NEXT = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj"


class Letters:
    """A tokenizer whose ids are code points; 0 is the pad."""

    pad_token_id = 0

    def decode(self, ids, **_):
        return "".join(chr(each) for each in ids)


def ids(*rows):
    return torch.tensor([[ord(c) if c != "_" else 0 for c in row] for row in rows])


def by_hand():
    """Two rows of three positions, the first position of row 0 a pad; one decode step; two experts."""
    trace = Trace(["a", "b"], Letters())
    trace.begin(ids("_xy", "pqr"), torch.tensor([[0, 1, 1], [1, 1, 1]]))
    gates = torch.tensor([[[9.0, 9.0], [1, 0], [0.5, 0.5]], [[0, 0], [0, 1], [0, 1]]])
    trace.record(UP, gates)
    trace.record(NEXT, torch.zeros(2, 3, 2))
    trace.begin(ids("z", "s"), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), continues=True)
    trace.record(UP, torch.tensor([[[0.25, 0.75]], [[1.0, 0.0]]]))
    trace.record(NEXT, torch.zeros(2, 1, 2))
    return trace


def test_statistics_equal_the_hand_count():
    trace = by_hand()
    assert trace.sites == [UP, NEXT]
    assert trace.counts()[UP].tolist() == [4, 4]
    load = trace.load()[UP]
    assert load.weight_E.tolist() == [2.75, 3.25]
    torch.testing.assert_close(load.fraction_E, torch.tensor([2.75, 3.25]) / 6)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    # Six tokens have an expert: four choose one alone, one is split evenly, one 1:3.
    assert trace.entropy()[UP] == pytest.approx((math.log(2) + quarter) / 6)
    assert trace.max_entropy == pytest.approx(math.log(2))


def test_a_site_without_experts_is_zero_load_and_nan_entropy():
    trace = by_hand()
    assert trace.counts()[NEXT].tolist() == [0, 0]
    assert trace.load()[NEXT].fraction_E.tolist() == [0, 0]
    assert math.isnan(trace.entropy()[NEXT])


def test_prefill_and_decode_are_one_row():
    trace = by_hand()
    assert trace.rows == 2
    assert trace.gates(UP, 0).tolist() == [[0, 0], [1, 0], [0.5, 0.5], [0.25, 0.75]]
    assert trace.mask(0).tolist() == [False, True, True, True]
    assert trace.texts(0) == ["x", "y", "z"]
    assert trace.texts(1) == ["p", "q", "r", "s"]
    torch.testing.assert_close(trace.gates(row=1), trace.gates(UP, 1) / 2)


def test_another_batch_or_another_prompt_starts_a_new_segment():
    trace = by_hand()
    trace.begin(ids("uvw"), continues=True)
    trace.record(UP, torch.ones(1, 3, 2))
    trace.begin(ids("k"))
    trace.record(UP, torch.ones(1, 1, 2))
    assert trace.rows == 4
    assert trace.texts(2) == ["u", "v", "w"]
    assert trace.texts(3) == ["k"]
    assert trace.counts()[UP].tolist() == [8, 8]


def test_fill_after_a_finished_row_is_a_pad():
    trace = Trace(["a"], Letters())
    trace.begin(ids("ab", "cd"))
    trace.record(UP, torch.ones(2, 2, 1))
    trace.begin(ids("e", "_"), torch.ones(2, 3), continues=True)
    trace.record(UP, torch.ones(2, 1, 1))
    assert trace.counts()[UP].tolist() == [5]
    assert trace.texts(1) == ["c", "d"]


def test_pads_may_hold_nan_but_tokens_may_not():
    gates = torch.tensor([[[math.nan], [1.0]]])
    trace = Trace(["a"])
    trace.begin(torch.tensor([[7, 8]]))
    trace.record(UP, gates, mask_BS=torch.tensor([[0, 1]]))
    assert trace.counts()[UP].tolist() == [1]
    assert trace.mask().tolist() == [False, True]
    trace.begin(torch.tensor([[7, 8]]))
    with pytest.raises(RosterError, match="not finite"):
        trace.record(DOWN, gates)


def test_embeddings_instead_of_ids():
    trace = Trace(["a", "b"])
    trace.begin()
    trace.record(UP, torch.ones(1, 2, 2, dtype=torch.bfloat16), torch.tensor([[1, 0]]))
    trace.begin(continues=True)
    trace.record(UP, torch.ones(1, 1, 2))
    assert trace.ids(0).tolist() == [-1, -1, -1]
    assert trace.mask(0).tolist() == [True, False, True]
    assert trace.texts(0) == ["?", "?"]
    assert trace.gates(UP).dtype == torch.float32


def test_the_record_is_a_copy():
    gates, tokens = torch.ones(1, 1, 1), torch.tensor([[5]])
    trace = Trace(["a"])
    trace.begin(tokens)
    trace.record(UP, gates)
    gates.zero_()
    tokens.zero_()
    assert trace.gates(UP).item() == 1
    assert trace.ids(0).item() == 5


def test_tables_by_site_and_by_layer():
    trace = Trace(["a", "b"])
    trace.begin(torch.tensor([[1, 2]]))
    trace.record(UP, torch.tensor([[[1.0, 0], [1, 0]]]))
    trace.record(DOWN, torch.tensor([[[0, 2.0], [0, 0]]]))
    trace.record(NEXT, torch.tensor([[[0, 1.0], [3, 0]]]))
    assert trace.table().rows == [UP, DOWN, NEXT]
    assert trace.table().values.tolist() == [[1, 0], [0, 1], [0.75, 0.25]]
    layers = trace.table("load", by="layer")
    assert (layers.rows, layers.columns) == (["layer 0", "layer 1"], ["a", "b"])
    assert layers.values.tolist() == [[0.5, 0.5], [0.75, 0.25]]
    assert trace.table("counts", by="layer").values.tolist() == [[2, 1], [1, 1]]
    assert trace.table("weight", by="layer").values.tolist() == [[2, 2], [3, 1]]
    names, gates_LSE = trace.layer_gates()
    assert names == ["layer 0", "layer 1"]
    assert gates_LSE[0].tolist() == [[0.5, 1.0], [0.5, 0.0]]
    with pytest.raises(RosterError, match="did you mean 'load'"):
        trace.table("loda")


def test_layers_are_read_from_names():
    assert layer_of(NEXT) == 1
    assert layer_of("lm_head") is None
    both = ["encoder.block.0.layer.1.x", "decoder.block.0.layer.2.x", "decoder.block.1.y", "lm_head"]
    assert group_by_layer(both) == {
        "encoder.block.0": both[:1],
        "decoder.block.0": both[1:2],
        "layer 1": both[2:3],
        "lm_head": both[3:],
    }


def test_json_holds_tokens_and_counts_but_no_pads_and_no_nan():
    told = json.loads(json.dumps(by_hand().to_json(), allow_nan=False))
    assert told["experts"] == ["a", "b"]
    assert told["sites"][NEXT]["entropy"] is None
    assert told["sites"][UP]["tokens"] == 6
    assert told["rows"][0]["tokens"] == ["x", "y", "z"]
    assert told["rows"][0]["gates"][0] == [0.5, 0.0]


def test_print_is_a_table_of_layers():
    out = io.StringIO()
    by_hand().print(Console(file=out, width=100))
    assert "layer 0" in out.getvalue()
    assert "54.2" in out.getvalue()  # 3.25 / 6
    many = Trace([f"expert[{i}]" for i in range(14)])
    many.begin(torch.tensor([[1]]))
    many.record(UP, torch.ones(1, 1, 14))
    many.print(Console(file=out, width=160))
    assert "4 others" in out.getvalue()
    assert "expert[3]" in out.getvalue()
    Trace(["a"]).print(Console(file=out, width=100))


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda t: t.record(UP, torch.ones(2, 1, 2)), "recorded twice"),
        (lambda t: t.record("new", torch.ones(2, 1, 3)), r"must be \[B, S, 2\]"),
        (lambda t: t.record("new", torch.ones(1, 1, 2)), "this call has"),
        (lambda t: t.record("new", torch.ones(2, 1, 2), torch.ones(3, 1)), "a mask for"),
        (lambda t: t.begin(torch.ones(3)), "input_ids must be"),
        (lambda t: t.gates("model.layers.0.mlp.up_pro"), "did you mean"),
        (lambda t: t.gates(row=2), "no row 2"),
        (lambda t: t.gates(row=-1), "no row -1"),
        (lambda t: Trace([]), "at least one"),
        (lambda t: Trace(["a", "a"]), "different names"),
        (lambda t: Trace(["a"]).record(UP, torch.ones(1, 1, 1)), "before any begin"),
    ],
)
def test_misuse_is_told(misuse, message):
    with pytest.raises(RosterError, match=message):
        misuse(by_hand())
