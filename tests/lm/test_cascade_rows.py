"""FrugalGPT and AutoMix as rows of the report: every call paid, settings from validation, left out where they must be.

What the report says is replayed here one prompt at a time, from the log's own cells.
"""

import json

import numpy as np
import pytest
from scipy.spatial import ConvexHull
from typer.testing import CliRunner

from lm import tiny
from roster.cli import app
from roster.cli.lm_recipes import recipes_for
from roster.errors import RosterError
from roster.lm import data
from roster.lm.calibration import auroc
from roster.lm.confidence import AnswerJudge, cross_fitted
from roster.lm.decide import Cascade, SelfChecked
from roster.lm.estimate import Mean
from roster.lm.evaluate import evaluate
from roster.lm.exporting import log_lines
from roster.lm.importing import read_log
from roster.lm.lacking import lacking
from roster.lm.offline import load_policy
from roster.lm.part import pack, unpack
from roster.lm.play import play, play_setting
from roster.lm.results import LOOKUP, MIX
from roster.lm.storing import load_records, save_records
from roster.lm.sureness import Sureness
from roster.lm.tune import tune
from roster.recipes import RECIPES

FRUGAL, AUTOMIX = RECIPES["frugalgpt"], RECIPES["automix"]


def one_at_a_time(rule, records, judge):
    """(score, cost) of every prompt, asked in turn; `judge(n, m)` is (how sure, what finding out costs)."""
    found = []
    for n in range(len(records)):
        paid = 0.0
        for place, name in enumerate(rule.order):
            m = records.models.index(name)
            paid += records.cost_NM[n, m]
            if place == len(rule.order) - 1:
                break
            sure, price = judge(n, m)
            paid += price
            if isinstance(rule, SelfChecked):
                asks = rule.asks[int(np.floor(sure * (len(rule.asks) - 1) + 0.5))]
            else:
                asks = sure < rule.thresholds[place]
            if not asks:
                break
        found.append((records.score_NM[n, m], paid))
    return np.array(found).T


def at_cost_of_random(validation, test, budget):
    """The report's rule, by SciPy's hull: corners on validation, the share of the last edge by the test's costs.

    Args:
        validation, test: (score, cost) of every setting on every prompt, [L, 2, N].
        budget: a mean cost.
    """
    cost_L, quality_L = validation[:, 1].mean(1), validation[:, 0].mean(1)
    points = np.stack([cost_L, quality_L], axis=1)
    floor = np.array([[cost_L.min() - 1, -9.0], [cost_L.max() + 1, -9.0]])
    upper = [v for v in ConvexHull(np.vstack([points, floor])).vertices if v < len(points)]
    cheapest = min(range(len(points)), key=lambda at: (cost_L[at], -quality_L[at]))
    way = sorted(set(upper) | {cheapest}, key=lambda at: cost_L[at])
    way = way[: int(np.argmax(quality_L[way])) + 1]
    paid, gave = test[:, 1].mean(1), test[:, 0].mean(1)
    place = 0
    while place + 1 < len(way) and paid[way[place + 1]] <= budget:
        place += 1
    if place + 1 == len(way):
        return gave[way[place]]
    a, b = way[place], way[place + 1]
    share = (budget - paid[a]) / (paid[b] - paid[a])
    return (1 - share) * gave[a] + share * gave[b]


def replayed(recipe, records, judged):
    """(every setting on validation, on the test) of a recipe, replayed; `judged(learn, part)` gives the judge."""
    train, validation, test = (records.split(name) for name in ("train", "validation", "test"))
    rules = recipe().fit(train).sweep(None)
    learn = records.rows(np.array([split != "test" for split in records.splits]))
    before, after = judged(train, validation), judged(learn, test)
    return [
        np.array([one_at_a_time(rule, part, judge) for rule in rules])
        for part, judge in ((validation, before), (test, after))
    ]


def by_judge(learn, part):
    """FrugalGPT's scorer, learned anew from the answers of all models."""
    cells = list(np.ndindex(learn.score_NM.shape))
    judge = AnswerJudge().fit(
        [learn.prompts[n] for n, _ in cells],
        [learn.answer_NM[n, m] for n, m in cells],
        np.array([learn.score_NM[n, m] for n, m in cells]),
    )
    sure_NM = np.stack([judge.confidence(part.prompts, list(column)) for column in part.answer_NM.T], axis=1)
    return lambda n, m: (sure_NM[n, m], 0.0)


def by_checks(learn, part):
    return lambda n, m: (part.checked_NM[n, m], part.check_cost_NM[n, m])


@pytest.mark.parametrize(
    ("recipe", "records", "judged"),
    [(FRUGAL, tiny.told_apart(240, slips=0.15), by_judge), (AUTOMIX, tiny.self_checked(), by_checks)],
    ids=["frugalgpt", "automix"],
)
def test_a_row_is_what_a_replay_gives(recipe, records, judged):
    report = evaluate(records, {recipe.slug: recipe, "lm-knn": RECIPES["lm-knn"]}, draws=50)
    (section,) = report.sections
    rows = {row.router: row for row in section.rows}
    row, other = rows[recipe.slug], rows["lm-knn"]
    validation, test = replayed(recipe, records, judged)
    assert row.quality.value == pytest.approx(at_cost_of_random(validation, test, section.cost_of_random), abs=1e-9)
    assert row.quality.low < row.quality.value < row.quality.high
    look = rows[LOOKUP].quality.value
    assert row.over_lookup.value == pytest.approx(row.quality.value - look)
    assert (row.kind, row.mixes, row.carried) == (other.kind, other.mixes, other.carried)
    # Its curve is of what the settings gave on the test; every corner of it is one of them.
    given = {(round(cost, 9), round(quality, 9)) for quality, cost in test.mean(2)}
    assert {(round(cost, 9), round(quality, 9)) for cost, quality in row.curve} <= given
    assert row.quality.value > rows[MIX].quality.value + 0.03, "reading answers says more than the price"
    assert row.ece is row.brier is row.auroc is None
    assert row.decision_ms > 0


def test_all_legs_and_all_checks_are_paid():
    records = tiny.self_checked()
    routing = AUTOMIX().fit(records.split("train"))
    test = records.split("test")
    rules = routing.sweep(None)
    played = play(routing, test, timed=False, rules=rules).played
    asked = [rule for rule in rules if isinstance(rule, SelfChecked)]
    assert asked, "single models alone are no AutoMix"
    for rule, score_N, cost_N in zip(rules, played.score_LN, played.cost_LN, strict=True):
        small = test.column(rule.order[0])
        least_N = test.cost_NM[:, small] + (test.check_cost_NM[:, small] if isinstance(rule, SelfChecked) else 0)
        assert np.all(cost_N >= least_N - 1e-12)
        more_N = cost_N > least_N + 1e-12
        if len(rule.order) > 1:
            large = test.column(rule.order[1])
            assert np.allclose(cost_N[more_N], (least_N + test.cost_NM[:, large])[more_N])
            assert np.array_equal(score_N[more_N], test.score_NM[more_N, large])
            assert np.array_equal(score_N[~more_N], test.score_NM[~more_N, small])


def test_the_answer_that_ends_a_cascade_is_kept():
    """Not the surest of all: whoever serves has only the last one in hand that was good enough."""
    test = tiny.records(3)
    sure_NM = np.array([[0.8, 0.3, 0.1], [0.95, 0.3, 0.1], [0.8, 0.1, 0.05]])
    rule = Cascade(tiny.MODELS, (0.9, 0.2))
    estimates = Mean().fit(tiny.records(60)).estimate(test.prompts)
    kept_N, paid_N = rule.play(estimates, sure_NM, test.cost_NM)
    assert kept_N.tolist() == [1, 0, 2]
    assert paid_N == pytest.approx([test.cost_NM[0, :2].sum(), test.cost_NM[1, 0], test.cost_NM[2].sum()])
    slow_N, dear_N = super(type(rule).__mro__[1], rule).play(estimates, sure_NM, test.cost_NM)
    assert np.array_equal(slow_N, kept_N)
    assert np.allclose(dear_N, paid_N)
    score_N, _ = play_setting(rule, estimates, test, Sureness(sure_NM))
    assert np.array_equal(score_N, test.score_NM[[0, 1, 2], [1, 0, 2]])


def test_settings_survive_the_disk_and_say_what_they_cannot():
    rule = SelfChecked(("cat-person", "dear-all-rounder"), (True, False, True))
    assert unpack(*pack(rule), {"SelfChecked": SelfChecked}).asks == rule.asks
    assert rule.asks_on(0, np.array([0.0, 0.25, 0.5, 0.74, 0.75, 1.0])).tolist() == [
        True, False, False, False, True, True,
    ]  # fmt: skip
    estimates = Mean().fit(tiny.records(60)).estimate(["a"])
    assert rule.next_below(estimates, [0], 2) is None
    with pytest.raises(RosterError, match="cannot be had from one call"):
        rule.next_below(estimates, [], 0)
    with pytest.raises(RosterError, match="one model behind it"):
        SelfChecked(("a", "b", "c"), (True, False))


# What a log must have, and what is said where it has not.


def test_what_is_lacking_is_said():
    texts = FRUGAL.needs
    assert lacking(texts, tiny.told_apart()) is None
    assert "lack them (column `answer`)" in lacking(texts, tiny.records())
    gaps = tiny.told_apart()
    gaps.answer_NM[:7, 1] = gaps.answer_NM[3, 0] = None
    assert "lack 8 of them, most of 'dog-person' (7 prompts)" in lacking(texts, gaps)
    gaps.score_NM[:7] = np.nan  # nobody is judged on these
    assert lacking(texts, gaps) is None
    gaps.score_NM[np.array(gaps.splits) == "test", 0] = np.nan
    assert "lack them" in lacking(texts, gaps), "the test would have to be estimated"
    assert "only known which are equal" in lacking(texts, tiny.told_apart(worded=False))
    checks = AUTOMIX.needs
    assert lacking(checks, tiny.self_checked()) is None
    assert "lack them (column `checked`)" in lacking(checks, tiny.records())
    assert "lack what they cost (column `check_cost`)" in lacking(checks, tiny.self_checked(check_cost_NM=None))
    gaps = tiny.self_checked()
    gaps.check_cost_NM[5, 0] = np.nan
    assert "lack 1 of them, most of 'cat-person' (1 prompts)" in lacking(checks, gaps)
    free = tiny.told_apart()
    free.cost_NM[:] = np.nan
    assert lacking(texts, free) is None, "without any costs quality alone is judged"


def printed(*arguments):
    done = CliRunner().invoke(app, ["lm", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split()), done


def test_the_report_leaves_out_by_name(tmp_path, monkeypatch):
    save_records(tiny.records(150), tmp_path / "plain")
    code, said, _ = printed("eval", tmp_path / "plain", "--router", "frugalgpt")
    assert code != 0
    assert "'frugalgpt' reads the answer of every model, and records 'animals' lack them" in said
    allowed, left_out = recipes_for(None, tiny.records(150))
    assert {"lm-knn", "carrot-router"} <= {recipe.slug for recipe in allowed}
    quick = [recipe for recipe in allowed if recipe.slug == "lm-knn"]
    monkeypatch.setattr("roster.cli.lm.recipes_for", lambda names, records: (quick, left_out))
    code, said, done = printed("eval", tmp_path / "plain", "--draws", 10, "--json")
    assert code == 0, said
    notes = json.loads(done.stdout)["notes"]
    assert [note.split(",")[0] for note in notes if note.startswith("left out: ")] == [
        "left out: smoothie", "left out: frugalgpt", "left out: automix",
    ]  # fmt: skip


def test_the_same_table_and_page_and_a_policy(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(log_lines(tiny.told_apart(240, slips=0.1))))
    code, said, _ = printed("import", log, "--out", tmp_path / "records")
    assert code == 0, said
    code, said, _ = printed(
        "eval", tmp_path / "records", "--router", "frugalgpt", "--router", "lm-knn", "--draws", 20, "--add",
        "dog-person", "--probes", 20, "--out", tmp_path / "report",
    )  # fmt: skip
    assert code == 0, said
    assert "left out where a model is added from probes: frugalgpt" in said
    assert "frugalgpt" in (tmp_path / "report" / "report.html").read_text()
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {row["router"] for row in found["added"]} == {"lm-knn"}
    code, said, _ = printed(
        "tune", tmp_path / "records", "--router", "frugalgpt", "--budget", 6, "--out", tmp_path / "policy"
    )
    assert code == 0, said
    policy = load_policy(tmp_path / "policy")
    assert policy.judges
    code, said, _ = printed("route", tmp_path / "policy", "describe the old cat")
    assert code == 0, said
    assert '"escalate_below"' in said


def test_a_tuned_chain_gives_offline_what_its_target_said():
    records = tiny.told_apart(300, slips=0.1)
    tuned = tune(FRUGAL(), records, budget=5.0)
    assert tuned.validation.cost.value <= 5.0 + 1e-9
    learn = records.rows(np.array([split != "test" for split in records.splits]))
    test, judge = records.split("test"), by_judge(learn, records.split("test"))
    rule = tuned.routing.rule
    sides = [(rule, 1.0)] if isinstance(rule, Cascade) else [(rule.first, 1 - rule.share), (rule.second, rule.share)]
    score_N, cost_N = sum(share * one_at_a_time(each, test, judge) for each, share in sides)
    assert (tuned.test.quality.value, tuned.test.cost.value) == pytest.approx((score_N.mean(), cost_N.mean()))


def test_automix_is_reported_on_and_not_served(tmp_path):
    save_records(tiny.self_checked(), tmp_path / "records")
    code, said, _ = printed("tune", tmp_path / "records", "--router", "automix", "--budget", 6, "--out", tmp_path / "p")
    assert code != 0
    assert "'automix' has models check their own answers, several calls for one, which no policy of the gateway" in said
    assert not (tmp_path / "p").exists()


def test_checks_survive_log_and_folder(tmp_path):
    made = tiny.self_checked(60)
    (tmp_path / "log.jsonl").write_text("\n".join(log_lines(made)))
    read = read_log(tmp_path / "log.jsonl")
    again = load_records(save_records(read, tmp_path / "records"))
    at = [again.prompts.index(prompt) for prompt in made.prompts if prompt in again.prompts]
    assert len(at) > 30
    for name in ("checked_NM", "check_cost_NM"):
        seen = getattr(again.only(made.models), name)
        kept = [n for n, prompt in enumerate(made.prompts) if made.prompts.count(prompt) == 1]
        rows = [again.prompts.index(made.prompts[n]) for n in kept]
        assert seen[rows] == pytest.approx(getattr(made, name)[kept], nan_ok=True)
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "a", "model": "m", "checked": 1.5}))
    with pytest.raises(RosterError, match="line 1: 'checked'"):
        read_log(tmp_path / "bad.jsonl")


# Recorded answers of real models.


def test_labels_of_equal_answers_tell_nothing_else():
    """ZeroEval's answers are known up to equality. The labels must not say how common an answer is among the models."""
    records = data.load("zeroeval-gsm8k", texts=False)
    assert not records.worded
    weak = int(np.argsort(records.score_NM.mean(0))[10])
    answered = np.array([a is not None for a in records.answer_NM[:, weak]])
    some = records.rows(np.flatnonzero(answered)[:400])
    sure_N = cross_fitted(["?"] * len(some), list(some.answer_NM[:, weak]), some.score_NM[:, weak], folds=4)
    assert abs(auroc(sure_N, some.score_NM[:, weak]) - 0.5) < 0.1
    first, second = records.answer_NM[0, :2]
    assert (first == second) == (data.load("zeroeval-gsm8k", texts=False).answer_NM[0, 0] == second)
    assert "only known which are equal" in lacking(FRUGAL.needs, records)


def test_on_real_answers():
    """RouteLLM's GSM8K: the weak model's real responses say more than its questions; the row is what a replay gives."""
    try:
        records = data.load("routellm-gsm8k")
    except RosterError as error:
        pytest.skip(f"the texts are not here: {error}")
    records = records.rows(np.arange(0, len(records), 4))
    report = evaluate(records, {"frugalgpt": FRUGAL}, draws=50)
    (section,) = report.sections
    (row,) = (each for each in section.rows if each.router == "frugalgpt")
    validation, test = replayed(FRUGAL, records, by_judge)
    assert row.quality.value == pytest.approx(at_cost_of_random(validation, test, section.cost_of_random), abs=1e-9)
