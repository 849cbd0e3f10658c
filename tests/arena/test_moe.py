"""The arena of feed-forward mixtures: equal terms, resuming, and measures by hand."""

import dataclasses
import json

import pytest
import torch

from roster.arena.moe import compare as arena
from roster.arena.moe.data import DOMAINS, corpus
from roster.arena.moe.measures import Routing, bytes_for_backward, flops_per_token, fluctuation, routing
from roster.arena.moe.pretrain import Terms, pretrain, rate_at, small_model
from roster.arena.moe.report import markdown, pair_table, verdict, write_page
from roster.errors import RosterError
from roster.moe.replacing import replace

TINY = Terms(steps=5, rows=3, length=16, width=16, layers=2, heads=2, hidden=16, validation_rows=2)


def test_every_recipe_reads_the_same_text():
    text = corpus()
    one, domain = text.batch(3, 6, 16, seed=1)
    other, _ = text.batch(3, 6, 16, seed=1)
    assert torch.equal(one, other)
    assert not torch.equal(one, text.batch(4, 6, 16, seed=1)[0])
    assert sorted(domain.tolist()) == [0, 0, 1, 1, 2, 2]


def test_training_and_validation_do_not_share_text():
    text = corpus()
    key = torch.randint(2**62, (40,), generator=torch.Generator().manual_seed(0))
    for domain in DOMAINS:
        held_out = (text.validation[domain].unfold(0, 40, 40) * key).sum(1)
        seen = torch.cat([(part * key).sum(1) for part in text.train[domain].unfold(0, 40, 1).split(20_000)])
        shared = torch.isin(held_out, seen).float().mean()
        assert shared <= 0.05, domain  # licences and headings recur


def test_the_same_seed_gives_the_same_run():
    one, other = (pretrain("switch-transformer", terms=TINY, seed=2) for _ in range(2))
    assert one.train_loss == other.train_loss
    assert one.validation_loss == other.validation_loss


def test_initial_weights_around_the_blocks_are_the_same_for_all():
    models = [replace(small_model(TINY, 0), slug) for slug in ("dense-active", "gshard-top2")]
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"):
        assert torch.equal(*(model.get_parameter(name) for model in models))


def test_rate_rises_then_falls_to_a_tenth():
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_a_comparison_goes_on_where_it_stopped(tmp_path, monkeypatch):
    slugs = arena.contenders(["switch-transformer"])
    assert slugs == ["dense-active", "switch-transformer"]
    first = arena.compare(slugs, TINY, 2, tmp_path / "runs")
    (tmp_path / "runs" / "switch-transformer-1.json").unlink()
    trained = []
    original = arena.measured_run
    monkeypatch.setattr(arena, "measured_run", lambda *args: trained.append(args[0]) or original(*args))
    again = arena.compare(slugs, TINY, 2, tmp_path / "runs")
    assert trained == ["switch-transformer"]
    assert [r["validation"] for r in again["recipes"]] == [r["validation"] for r in first["recipes"]]
    with pytest.raises(RosterError, match="choose another folder"):
        arena.compare(slugs, dataclasses.replace(TINY, steps=6), 2, tmp_path / "runs")
    page = write_page(again, tmp_path / "report.html").read_text()
    assert "Switch Transformer" in page
    assert "<svg" in page
    assert "| `switch-transformer` |" in markdown(again)
    kept = {row["recipe"]: row["losses"] for row in again["recipes"]}
    runs = {
        slug: [json.loads((tmp_path / f"runs/{slug}-{seed}.json").read_text()) for seed in (0, 1)] for slug in slugs
    }
    assert kept == {slug: {str(r["seed"]): r["validation"] for r in each} for slug, each in runs.items()}
    (pair,) = again["pairs"]
    differences = [one["validation"]["all"] - two["validation"]["all"] for one, two in zip(*runs.values(), strict=True)]
    assert (pair["of"], pair["over"], pair["n"]) == ("dense-active", "switch-transformer", 2)
    assert pair["mean"] == pytest.approx(-sum(differences) / 2)
    assert "Who is better than whom" in page
    assert "Who is better than whom" in markdown(again)
    alone = arena.compare(slugs, TINY, 1, tmp_path / "runs")
    assert alone["pairs"] == []
    assert "Who is better than whom" not in markdown(alone)
    assert "Who is better than whom" not in write_page(alone, tmp_path / "one.html").read_text()


def scripted(losses):
    """Runs with these losses, by recipe."""
    return {slug: [{"seed": n, "validation": {"all": x}} for n, x in enumerate(each)] for slug, each in losses.items()}


def test_pairs_of_recipes_are_told_apart_called_alike_or_left_open():
    from scipy import stats

    losses = {
        "good": [3.0, 3.1, 3.2],
        "twin": [3.001, 3.1005, 3.2],
        "bad": [3.51, 3.6, 3.69],
        "wild": [2.7, 3.2, 3.55],
    }
    found = {(each["of"], each["over"]): each for each in arena.pairs(scripted(losses))}
    words = {names: each["word"] for names, each in found.items()}
    assert words == {
        ("good", "twin"): "alike", ("good", "bad"): "better", ("good", "wild"): "undecided",
        ("twin", "bad"): "better", ("twin", "wild"): "undecided", ("bad", "wild"): "undecided",
    }  # fmt: skip
    told = stats.ttest_rel(losses["bad"], losses["good"]).confidence_interval(0.95)
    assert (found["good", "bad"]["low"], found["good", "bad"]["high"]) == pytest.approx(tuple(told))
    open_one = found["bad", "wild"]
    spread = stats.tstd([a - b for a, b in zip(losses["wild"], losses["bad"], strict=True)])
    half = [stats.t.ppf(0.975, n - 1) * spread / n**0.5 for n in (open_one["seeds"] - 1, open_one["seeds"])]
    assert half[0] >= abs(open_one["mean"]) > half[1], "one seed fewer would not settle it"
    assert found["good", "bad"]["seeds"] is None


def test_the_order_of_means_is_said_to_be_no_result():
    losses = {
        "dense-active": [3.0, 3.1, 3.2],
        "good": [2.9, 3.0, 3.1],
        "bad": [3.51, 3.6, 3.69],
        "wild": [2.7, 3.2, 3.55],
    }
    zero = {"mean": 0.0, "low": 0.0, "high": 0.0}
    rows = [
        {"recipe": slug, "title": slug, "validation": {"all": {"mean": sum(each) / 3}}, "gain_over_dense": zero}
        for slug, each in losses.items()
    ]
    result = {"recipes": rows, "pairs": arena.pairs(scripted(losses)), "terms": {"steps": 3}, "seeds": 3}
    told = " ".join(verdict(result))
    assert "Of 3 pairs of mixtures 1 are told apart, 0 are alike, and 2 are not settled" in told


def test_the_table_of_pairs_reads_both_ways():
    runs = scripted({"good": [3.0, 3.1, 3.2], "bad": [3.51, 3.6, 3.69], "wild": [2.7, 3.2, 3.55]})
    table = pair_table({"pairs": arena.pairs(runs), "recipes": [{"recipe": slug} for slug in runs]})
    assert table["columns"] == ["good", "bad", "wild"]
    rows = {name: dict(zip(table["columns"], cells, strict=True)) for name, cells in table["rows"]}
    assert (rows["good"]["bad"]["word"], rows["bad"]["good"]["word"]) == ("better", "worse")
    assert (rows["good"]["bad"]["text"], rows["bad"]["good"]["text"]) == ("+0.500", "-0.500")
    one, other = (rows[a][b]["text"].split(", ") for a, b in (("wild", "good"), ("good", "wild")))
    assert (one[0], one[1]) == (other[0].replace("+", "-"), other[1])
    assert one[1].endswith(" seeds")
    assert rows["good"]["good"] is None


def test_what_is_no_feed_forward_mixture_is_refused():
    with pytest.raises(RosterError, match="arrow-mbc"):
        arena.contenders(["arrow-mbc"])


def test_interval_is_students():
    from scipy import stats

    values = [1.0, 2.0, 4.0]
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values))
    assert arena.interval(values) == pytest.approx({"mean": 7 / 3, "low": low, "high": high}, rel=1e-3)


class Scripted(torch.nn.Module):
    """A model that routes by domain: expert n for domain n, or all tokens to expert 0."""

    def __init__(self, by_domain):
        super().__init__()
        self.by_domain = by_domain
        self.roster = type("Roster", (), {"recorder": None})()

    def forward(self, input_ids, use_cache):
        expert_B = torch.arange(len(input_ids)) if self.by_domain else torch.zeros(len(input_ids), dtype=torch.long)
        gates = torch.nn.functional.one_hot(expert_B, 3).float()[:, None].expand(-1, input_ids.shape[1], -1)
        self.roster.recorder.record("site", gates, None, input_ids)


def test_routing_measures_by_hand():
    ids, domains = torch.zeros(3, 4, dtype=torch.long), torch.arange(3)
    apart = routing(Scripted(True), ids, domains)
    assert apart.specialisation == pytest.approx(1.0, abs=1e-5)
    assert apart.violation == pytest.approx(0.0)
    assert apart.entropy == pytest.approx(0.0, abs=1e-6)
    assert apart.experts_per_token == 1.0
    together = routing(Scripted(False), ids, domains)
    assert together.specialisation == pytest.approx(0.0, abs=1e-5)
    assert together.violation == pytest.approx(2.0)
    assert fluctuation(apart, together) == pytest.approx(2 / 3)
    assert isinstance(together, Routing)


def test_arithmetic_is_counted():
    model = replace(small_model(TINY, 0), "dense-active").eval()
    ids = torch.zeros(2, 16, dtype=torch.long)
    D, F, S, vocabulary = 16, 16, 16, 1024
    linear = 2 * (2 * (4 * D * D + 3 * D * F)) + 2 * D * vocabulary  # two operations per weight, two layers, the head
    attention = 2 * 2 * 2 * S * D  # scores and values
    assert flops_per_token(model, ids) == pytest.approx(linear + attention, rel=0.05)
    assert bytes_for_backward(model, ids) > 0
