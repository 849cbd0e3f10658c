"""Heat maps: what they say, that nothing in them is markup by accident, and that colour is never the only sign."""

import re
from html.parser import HTMLParser

import pytest
import torch

from roster.analyze import heatmap
from roster.analyze.heatmap import heatmap_html, heatmap_page, heatmap_png, save
from roster.analyze.palette import mark_of
from roster.analyze.trace import Trace
from roster.errors import RosterError

PIECES = ["pad", "<b>", " &", '"', "a\n", "$x$", "漢"]


class Pieces:
    pad_token_id = None

    def decode(self, ids, **_):
        return "".join(PIECES[each] for each in ids)


class Balance(HTMLParser):
    """Collects the text, and fails on a tag that is closed out of order."""

    void = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.attributes = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def trace():
    made = Trace(["<i>bold</i>", 'sums & "quotes"', "idle"], Pieces())
    made.begin(torch.arange(7)[None], torch.tensor([[0, 1, 1, 1, 1, 1, 1]]))
    one = torch.tensor([[9, 9, 9], [0.9, 0.1, 0], [0.2, 0.8, 0], [0, 1, 0], [0, 0, 0], [0.6, 0.4, 0], [1, 0, 0]])
    made.record("model.layers.0.up", one[None])
    made.record("model.layers.1.up", one.roll(1, -1)[None] * torch.tensor([1.0, 0, 0]))
    return made


@pytest.mark.parametrize("render", [heatmap_html, heatmap_page])
def test_html_is_balanced_escaped_and_local(trace, render):
    html = render(trace, title='A "title" <script>')
    page = Balance(html)
    text = "".join(page.words)
    assert 'A "title" <script>' in text
    assert "<i>bold</i>" in text
    assert "␣&" in re.sub(r"\s", "", text)
    assert "a⏎" in re.sub(r"\s", "", text)
    assert "http" not in html
    assert not [name for name, _ in page.attributes if name in {"src", "href"}]
    assert "prefers-color-scheme: dark" in html


def test_tooltips_and_letters_say_what_the_colours_say(trace):
    page = Balance(heatmap_html(trace))
    titles = [value for name, value in page.attributes if name == "title"]
    assert titles[0].splitlines() == ["<b>", "0.450  A  <i>bold</i>", '0.050  B  sums & "quotes"']
    assert titles[3].splitlines() == ["a⏎", "no expert"]
    assert "layer 0: B 0.80" in titles
    assert "1 other expert is strongest nowhere" in "".join(page.words)


def test_pads_are_not_drawn(trace):
    assert "pad" not in "".join(Balance(re.sub(r"(?s)<style>.*?</style>", "", heatmap_html(trace))).words)


def test_the_strip_stops_where_it_says(trace, monkeypatch):
    monkeypatch.setattr(heatmap, "_STRIP_TOKENS", 2)
    html = heatmap_html(trace)
    assert "the first 2 of 6 tokens" in html
    assert html.count("layer 0: ") == 2


def test_an_empty_row_is_drawn_as_empty(tmp_path):
    trace = Trace(["a"])
    trace.begin(torch.tensor([[1]]), torch.tensor([[0]]))
    assert "no tokens" in "".join(Balance(heatmap_html(trace)).words)
    assert heatmap_png(trace, tmp_path / "empty.png").stat().st_size > 0


def test_save_goes_by_the_suffix_and_leaves_nothing_behind(trace, tmp_path):
    html = save(trace, tmp_path / "new" / "map.html")
    png = save(trace, tmp_path / "new" / "map.PNG")
    assert html.read_text("utf-8").startswith("<!doctype html>")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(each.name for each in html.parent.iterdir()) == ["map.PNG", "map.html"]
    with pytest.raises(RosterError, match=r"\.html or \.png.*'\.pdf'|\.pdf"):
        save(trace, tmp_path / "map.pdf")
    with pytest.raises(RosterError, match="ends in neither"):
        save(trace, tmp_path / "map")


def test_a_failed_write_keeps_the_old_file(trace, tmp_path, monkeypatch):
    target = tmp_path / "map.html"
    target.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save(trace, target)
    assert target.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["map.html"]


def test_every_expert_has_its_own_letter_and_the_first_24_their_own_look():
    assert [mark_of(index).letter for index in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]
    assert len({mark_of(index).letter for index in range(1000)}) == 1000
    assert len({(mark_of(index).rgb, mark_of(index).line) for index in range(24)}) == 24


@pytest.mark.parametrize(
    ("ink", "paper", "strength"), [((27, 31, 36), (255, 255, 255), 0.5), ((233, 237, 241), (20, 23, 27), 0.32)]
)
def test_text_on_the_strongest_tint_has_aa_contrast(ink, paper, strength):
    """The numbers are those of the template: --ink, --paper and --strength, light and dark."""
    template = (heatmap.Path(heatmap.__file__).parents[1] / "reporting" / "heatmap.html.j2").read_text()
    assert f"--strength: {strength}".replace("0.", ".") in template
    for index in range(24):
        tint = [strength * c + (1 - strength) * p for c, p in zip(mark_of(index).rgb, paper, strict=True)]
        light, dark = sorted((luminance(tint), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, mark_of(index)


def luminance(rgb):
    parts = [c / 255 for c in rgb]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
