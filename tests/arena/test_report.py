"""The report page: complete, escaped, valid, and in need of nothing but itself. All figures here are made up."""

import copy
import json
import random
import re
from html.parser import HTMLParser

import pytest

from roster.arena.report import render_report, write_report
from roster.errors import RosterError

ODD = '<b>&"'


def made_up():
    """A plausible result, at the size of a real one; every figure is invented."""
    draw = random.Random(0)
    skills = {
        "held-in": ["reverse", "sort-desc", "caesar", "roman", "json-format", "unit-convert", "plural", "sum-list"],
        "unseen": ["rhyme", "leet", "base-two"],
        "composed": ["reverse+caesar", "sum-list+roman", "sort-desc+json", ODD],
    }
    columns = [skill for names in skills.values() for skill in names]
    kinds = [
        ("base", "Base model", "baseline", "nothing", "no adapters"),
        ("uniform", "Uniform average", "baseline", "nothing", "every adapter with weight 1/E"),
        ("best-single", "Best single expert", "baseline", "nothing", "chosen on validation examples"),
        ("arrow-mbc", "Arrow", "recipe", "nothing", "Rows of the first right singular vectors as prototypes."),
        ("polytropon", "Polytropon", "recipe", "a task-by-expert table", ""),
        ("phatgoose", "PHATGOOSE", "recipe", "one gate per expert", "Gates trained after the adapters, frozen base."),
        ("oracle", "Oracle", "bound", "nothing", "is told which skill each prompt needs"),
    ]
    level = {"base": 0.22, "uniform": 0.41, "best-single": 0.38, "arrow-mbc": 0.71, "polytropon": 0.74}
    level |= {"phatgoose": 0.83, "oracle": 0.95}
    hardness = {"held-in": 1.0, "unseen": 0.55, "composed": 0.72}
    methods = []
    for at, (name, label, kind, trains, note) in enumerate(kinds):
        accuracy = {}
        for group, factor in hardness.items():
            mean = level[name] * factor
            accuracy[group] = {"mean": mean, "low": mean - 0.03, "high": mean + 0.028, "n": 60 * len(skills[group])}
        if name == "oracle":
            del accuracy["unseen"]
        recipe = kind == "recipe"
        methods.append(
            {"name": name, "label": label, "kind": kind, "trains": trains, "note": note, "accuracy": accuracy}
            | {"agreement": 0.6 + 0.07 * at if recipe else None, "extra_parameters": 61_440 * at if recipe else 0}
            | {"ms_per_token_ratio": None if name == "oracle" else 1 + 0.04 * at}
        )
    experts = skills["held-in"]
    values = [[0.97 if e == s else round(draw.uniform(0, 0.5), 2) for s in columns] for e in experts]
    values[2][9] = None
    per_skill = [[min(1.0, level[name] * draw.uniform(0.6, 1.15)) for _ in columns] for name, *_ in kinds]
    return {
        "title": "Eight experts, one model: is routing worth it?",
        "date": "2026-03-02",
        "machine": "2 × x86 cores, 8 GB, no GPU",
        "versions": {"roster-moe": "0.1.0", "torch": "2.13.0", "transformers": "5.17.0"},
        "seed": 7,
        "seconds": 725.4,
        "examples_per_skill": 60,
        "groups": list(skills),
        "methods": methods,
        "skills": skills,
        "matrix": {"rows": experts, "columns": columns, "values": values},
        "per_skill": {"rows": [name for name, *_ in kinds], "columns": columns, "values": per_skill},
        "heatmaps": [
            {
                "title": "Composed",
                "prompt": f"reverse, then: {ODD}\ncat",
                "answer": "tac",
                "html": "<figure>map</figure>",
            }
        ],
        "verdict": ["Routing was worth it: 83 % against 41 %.", "On unseen skills the gain is small.", f"Odd: {ODD}"],
    }


class Page(HTMLParser):
    """The page's elements, attributes and words; fails on a tag that is closed out of order."""

    void = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.stack, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.void:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in {"line", "rect", "circle"}, "only SVG elements may close themselves"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.stack):
            self.words.append(data)

    def all(self, tag):
        return [attributes for found, attributes in self.elements if found == tag]


@pytest.fixture(scope="module")
def html():
    return render_report(json.loads(json.dumps(made_up())))


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_text_is_escaped_everywhere(html, page):
    assert ODD not in html
    text = "".join(page.words)
    assert text.count(ODD) == 5  # two tables, a prompt, the verdict, the list of skills
    assert not [each for each in page.all("b") if each]


def test_fragments_are_trusted_as_they_are(page):
    assert len(page.all("figure")) == 1


def test_the_verdict_comes_before_any_table(html):
    assert html.index("Routing was worth it") < html.index("<table")


def test_none_is_an_en_dash(html):
    page = Page(html)
    text = "".join(page.words)
    assert "None" not in text
    assert "nan" not in text
    row = html[html.index('data-sort="Oracle"') :].split("</tr>")[0]
    assert row.count(">–</td>") == 3  # unseen accuracy, agreement, time


def test_figures_are_those_of_the_result(html):
    row = html[html.index('data-sort="PHATGOOSE"') :].split("</tr>")[0]
    assert re.search(r'class="best">83.0</span> <span class="range">80.0–85.8<', row)
    assert ">95 %<" in row
    assert ">307 k<" in row
    assert 'title="307,200"' in row
    assert ">1.20×<" in row
    assert "n = 480" in html
    assert "12 min 5 s" in html


def test_kinds_are_set_apart(page):
    classes = [each["class"] for each in page.all("tr") if "data-row" in each]
    assert classes == ["recipe"] * 3 + ["baseline"] * 3 + ["bound"]


def test_tables_are_accessible(page):
    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert all("scope" in each for each in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(ids) == len(set(ids))
    assert {each["aria-labelledby"] for each in page.all("section")} <= set(ids)


def test_nothing_is_fetched(html, page):
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html.replace("// Without", ""))
    assert not [name for _, attributes in page.elements for name in attributes if name in {"src", "href"}]
    assert not page.all("link")


def test_a_small_result_is_still_a_page():
    result = made_up() | {"heatmaps": [], "verdict": [], "methods": [], "seconds": 42}
    result |= {name: {"rows": [], "columns": [], "values": []} for name in ("matrix", "per_skill")}
    text = "".join(Page(render_report(result)).words)
    assert "No verdict was recorded." in text
    assert "42 s" in text
    assert "Token by token" not in text


def test_write_replaces_the_file_as_a_whole(tmp_path, monkeypatch):
    path = write_report(made_up(), tmp_path / "new" / "report.html")
    first = path.read_bytes()
    assert first.startswith(b"<!doctype html>")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(made_up() | {"title": "other"}, path)
    assert path.read_bytes() == first
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def without(result, *keys):
    result = copy.deepcopy(result)
    inner = result
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return result


def with_kind(result, kind):
    result["methods"][0]["kind"] = kind
    return result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (without(made_up(), "verdict"), "the result lacks verdict"),
        (without(made_up(), "methods", 1, "note"), "method 'uniform' lacks note"),
        (without(made_up(), "matrix", "values", 0), "matrix must have 8 rows of 15 values"),
        (without(made_up(), "per_skill", "values", 0, 0), "per_skill must have 7 rows"),
        (with_kind(made_up(), "recipes"), "did you mean 'recipe'"),
    ],
)
def test_a_result_that_cannot_be_shown_is_told(result, message):
    with pytest.raises(RosterError, match=message):
        render_report(result)
