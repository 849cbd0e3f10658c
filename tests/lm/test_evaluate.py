"""The report: yardsticks by hand, sections, added models, words, and its three forms."""

import copy
import json
import re
from importlib import resources
from typing import ClassVar

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm.decide import Cascade, Weights
from roster.lm.estimate import KNN, DatasetTable
from roster.lm.evaluate import evaluate
from roster.lm.judging import complete
from roster.lm.play import play, play_oracle, play_random
from roster.lm.records import Records
from roster.lm.report import page, tables, write_report
from roster.lm.results import LOOKUP, ORACLE, RANDOM, SINGLE
from roster.lm.routing import Routing

MADE = tiny.records(400)
TEST = MADE.split("test")
TOLD = []


@pytest.fixture(scope="module")
def report():
    routers = {"lm-knn": lambda: Routing(KNN(neighbours=20), Weights())}
    return evaluate(
        MADE, routers, held_out=["bird"], added=["dog-person"], probes=(10, 40), draws=60, progress=TOLD.append
    )


def by_slug(section):
    return {row.router: row for row in section.rows}


def test_it_says_what_it_is_at(report):
    assert all(any(each.startswith(part) for each in TOLD) for part in ("in distribution", "held out: bird"))
    assert "added: dog-person" in TOLD


def test_yardsticks_by_hand(report):
    rows = by_slug(report.sections[0])
    section = report.sections[0]
    assert section.cost_of_random == pytest.approx(TEST.cost_NM.mean())
    assert rows[RANDOM].quality.value == pytest.approx(TEST.score_NM.mean())
    assert section.single == "dear-all-rounder"
    assert section.single_quality == pytest.approx(TEST.score_NM[:, 2].mean())
    assert rows[SINGLE].curve[-1][1] == pytest.approx(max(q for _, q in rows[SINGLE].curve))
    assert rows[LOOKUP].over_lookup.value == 0
    best = max(row.quality.value for row in section.rows)
    assert rows[ORACLE].quality.value == best


def test_a_router_that_sees_what_matters_beats_the_single_model(report):
    rows = by_slug(report.sections[0])
    assert rows["lm-knn"].quality.value > rows[SINGLE].quality.value
    assert rows["lm-knn"].kind == "router"
    assert rows["lm-knn"].decision_ms > 0
    assert rows["lm-knn"].quality.low < rows["lm-knn"].quality.value < rows["lm-knn"].quality.high


def test_oracle_is_the_best_model_of_every_prompt():
    curve = play_oracle(TEST).played.curve()
    assert curve.quality_P[-1] == pytest.approx(TEST.score_NM.max(1).mean())
    cheapest_right = np.where(TEST.score_NM == TEST.score_NM.max(1, keepdims=True), TEST.cost_NM, np.inf).min(1)
    assert curve.cost_P[-1] == pytest.approx(cheapest_right.mean())


def test_random_is_exact():
    played = play_random(TEST).played
    assert played.score_LN.mean() == pytest.approx(TEST.score_NM.mean())
    assert played.cost_LN.mean() == pytest.approx(TEST.cost_NM.mean())


def test_held_out_and_added_sections(report):
    assert [section.title for section in report.sections] == ["in distribution", "held out: bird"]
    here, there = (each for each in report.verdict if each.startswith("Beside the look-up"))
    assert "a label that live traffic lacks" in here
    assert "has never seen this set" in there, "its label is no help there, and whoever beats it does not beat much"
    assert report.sections[1].test_prompts == MADE.datasets.count("bird")
    assert [(row.router, row.model, row.probes) for row in report.added] == [
        ("lm-knn", "dog-person", 10),
        ("lm-knn", "dog-person", 40),
    ]
    assert report.added[1].auroc > 0.6
    assert report.added[1].quality > report.added[1].quality_without


class Watched(KNN):
    """Notes which prompts it learnt from, which it was asked about, and what a model was added from."""

    everyone: ClassVar[list["Watched"]] = []

    def __init__(self):
        super().__init__(neighbours=20)
        self.learnt, self.asked, self.probes = set(), set(), []
        self.everyone.append(self)

    def __deepcopy__(self, memo):
        copied = Watched()
        vars(copied).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return copied

    def fit(self, records):
        self.learnt = set(records.prompts)
        return super().fit(records)

    def estimate(self, prompts, datasets=None):
        self.asked |= set(prompts)
        return super().estimate(prompts, datasets)

    def add_model(self, model, records):
        self.probes.append(records)
        super().add_model(model, records)


@pytest.fixture(scope="module")
def watched():
    Watched.everyone = []
    score_NM = MADE.score_NM.copy()
    score_NM[::3, 1] = np.nan  # nobody knows these answers of dog-person
    gaps = Records(**{**vars(MADE), "score_NM": score_NM})
    report = evaluate(gaps, {"lm-knn": lambda: Routing(Watched(), Weights())}, added=["dog-person"], draws=2)
    assert report.settings == {"draws": 2, "seed": 0, "text": "last-user"}
    assert [row.probes for row in report.added] == [10, 20, 50]
    return Watched.everyone


def test_settings_are_chosen_on_prompts_that_nobody_learnt_from(watched):
    validation = set(MADE.split("validation").prompts)
    assert any(each.asked & validation for each in watched), "they are chosen on validation prompts"
    for each in watched:
        assert not each.asked & each.learnt
        if each.asked & validation:
            assert each.learnt == set(MADE.split("train").prompts)


def test_a_model_is_added_from_exactly_k_answers_that_are_known(watched):
    added = [probes for each in watched for probes in each.probes]
    assert [len(probes) for probes in added] == [10, 20, 50]
    for probes in added:
        assert len(set(probes.prompts)) == len(probes)
        assert np.isfinite(probes.score_NM[:, probes.column("dog-person")]).all()
        assert not set(probes.prompts) & set(TEST.prompts)
    few, more, most = (set(probes.prompts) for probes in added)
    assert few < more < most, "more probes are those and others"


def test_words_say_when_a_router_is_no_better(report):
    for section in report.sections:
        for row in section.rows:
            if row.router == LOOKUP:
                continue
            better = row.over_lookup.low > 0
            assert row.verdict.startswith("better") == better
            assert ("not better" in row.verdict or "worse" in row.verdict) == (not better)
    text = " ".join(report.verdict)
    routers = [by_slug(section)["lm-knn"] for section in report.sections]
    assert ("No router is shown to be better" in text) == any(row.over_lookup.low <= 0 for row in routers)
    assert "Chosen on validation prompts" in text


def test_the_three_forms(report, tmp_path):
    assert [table.row_count for table in tables(report)] == [7, 7, 2]
    assert all(len(table.columns) == 11 for table in tables(report)[:2])
    assert all(column.header for table in tables(report) for column in table.columns)
    paths = write_report(report, tmp_path)
    found = json.loads(paths[0].read_text())
    assert found["sections"][0]["rows"][0]["router"] == SINGLE
    html = paths[1].read_text()
    assert html == page(report)
    assert html.count("<svg viewBox") == 2 * 2  # around the routers, and the whole
    assert html.count("<polyline") == 2 * 2 * 7
    assert not re.search(r"https?://", html), "the page must not need a network"
    shared = resources.files("roster.reporting").joinpath("page.css").read_text()
    assert html.count("<style>") == 1
    assert shared.strip() in html
    for sentence in report.verdict:
        assert sentence.split("[")[0][:40].replace("'", "&#39;") in html


def test_prompts_with_gaps_are_left_out_and_said_to_be():
    score_NM = TEST.score_NM.copy()
    score_NM[0, 1] = np.nan
    gaps = Records(**{**vars(TEST), "score_NM": score_NM})
    left = complete(gaps)
    assert len(left) == len(TEST) - 1
    assert f"1 of {len(TEST)} test prompts were left out" in left.notes[-1]
    with pytest.raises(RosterError, match="no prompt of the test"):
        complete(Records(**{**vars(TEST), "cost_NM": TEST.cost_NM * np.nan}))


def test_a_cascade_needs_confidences():
    routing = Routing(DatasetTable(), Cascade(("cat-person", "dear-all-rounder")), sees_dataset=True).fit(MADE)
    with pytest.raises(RosterError, match="log-probability"):
        play(routing, TEST)
    sure = Records(**{**vars(TEST), "logprob_NM": np.where(TEST.score_NM == 1, -0.01, -3.0)})
    curve = play(routing, sure, timed=False).played.curve()
    assert curve.quality_P[-1] == pytest.approx(np.maximum(TEST.score_NM[:, 0], TEST.score_NM[:, 2]).mean())


def test_no_test_split():
    only_train = MADE.split("train")
    with pytest.raises(RosterError, match="no test split"):
        evaluate(only_train, {})
