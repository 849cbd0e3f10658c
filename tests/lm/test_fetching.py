"""Texts of others: none in the package, and fetched, resumed and checked against a server of this test's own."""

import hashlib
import io
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import roster
from cli.conftest import refuse, run
from roster.errors import RosterError
from roster.lm import data
from roster.lm.data import fetching, places, sources, texts
from texts import needed

PACKAGE = Path(roster.__file__).parent
NAME = "routellm-mt-bench"


class Server(ThreadingHTTPServer):
    """Serves `files` (path: bytes); the first `breaks` answers end in the middle; `asked` has (path, Range)."""

    def __init__(self, files, breaks=0, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.breaks, self.ranges, self.asked = files, breaks, ranges, []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, span = self.server, self.headers.get("Range")
        server.asked.append((self.path, span))
        if self.path not in server.files:
            return self.send_error(404)
        content = server.files[self.path]
        start = int(span[6:].rstrip("-")) if span and server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if server.breaks:
            server.breaks -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Starts a server as the mirror, with an empty cache and no folder of texts."""
    started = []

    def start(files, **options):
        server = Server(files, **options)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        monkeypatch.setenv("ROSTER_DATA_URL", f"http://127.0.0.1:{server.server_port}")
        return server

    monkeypatch.delenv("ROSTER_DATA", raising=False)
    monkeypatch.setenv("ROSTER_CACHE", str(tmp_path / "cache"))
    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def planted(monkeypatch):
    """A small collection of the form of MT-Bench, pinned; and the files that a server has of it."""
    turns = [f"A question of the test, number {n}" for n in range(400)]
    content = "".join(json.dumps({"turns": [turn]}) + "\n" for turn in turns).encode()
    file = sources.Pinned("some/question.jsonl", hashlib.sha256(content).hexdigest(), len(content))
    real = sources.sources()
    fake = replace(real[NAME], repository="o/r", commit="c" * 40, files=(file,), texts=texts.digest(turns, []))
    for module in (sources, texts):
        monkeypatch.setattr(module, "sources", lambda: {**real, NAME: fake})
    monkeypatch.setattr(fetching, "_read", texts.read)
    return {f"/o/r/{'c' * 40}/some/question.jsonl": content}, turns


def silent(*_):
    pass


def test_fetching_resumes_and_needs_no_second_time(serve, planted):
    files, turns = planted
    server = serve(files, breaks=2)
    fetching.fetch(NAME, silent, pause_s=0.0)
    assert texts.read(NAME) == (turns, [])
    content = next(iter(files.values()))
    half = len(content) // 2
    assert [span for _, span in server.asked] == [None, f"bytes={half}-", f"bytes={half + (len(content) - half) // 2}-"]
    fetching.fetch(NAME, silent, pause_s=0.0)
    assert len(server.asked) == 3
    assert [each.name for each in places.cache().rglob("*") if each.is_file()] == ["question.jsonl"]


def test_a_second_call_goes_on_where_the_first_gave_up(serve, planted):
    files, turns = planted
    server = serve(files, breaks=99)
    with pytest.raises(RosterError, match=r"cannot be reached.*ROSTER_DATA_URL.*ROSTER_DATA"):
        fetching.fetch(NAME, silent, pause_s=0.0)
    begun = max(each.stat().st_size for each in places.cache().rglob("*") if each.is_file())
    server.breaks = 0
    server.asked.clear()
    fetching.fetch(NAME, silent, pause_s=0.0)
    assert server.asked[0][1] == f"bytes={begun}-"
    assert texts.read(NAME)[0] == turns


def test_a_server_without_ranges_sends_the_whole_again(serve, planted):
    files, turns = planted
    serve(files, breaks=1, ranges=False)
    fetching.fetch(NAME, silent, pause_s=0.0)
    assert texts.read(NAME)[0] == turns


def test_what_is_not_pinned_is_not_taken(serve, planted):
    files, _ = planted
    serve({path: content.replace(b'number 7"', b'number 8"') for path, content in files.items()})
    with pytest.raises(RosterError, match="not the file that is pinned"):
        fetching.fetch(NAME, silent, pause_s=0.0)
    assert not [each for each in places.cache().rglob("*") if each.is_file()]
    serve({})
    with pytest.raises(RosterError, match="answers 404"):
        fetching.fetch(NAME, silent, pause_s=0.0)


def test_the_command_shows_licence_and_progress_on_a_pipe(serve, planted):
    files, _ = planted
    serve(files)
    result = run("lm", "fetch", NAME)
    assert result.exit_code == 0
    assert "github.com/o/r at cccccccccccc, Apache-2.0" in result.stdout
    size = len(next(iter(files.values())))
    assert f"some/question.jsonl: {size:,} of {size:,} bytes" in result.stderr
    assert "is here already" in run("lm", "fetch", NAME).stdout
    assert "did you mean 'llmrouter'" in refuse("lm", "fetch", "llm-router")


@pytest.mark.parametrize("name", data.LOADERS)
def test_without_texts_the_error_names_the_command(name, monkeypatch, tmp_path):
    monkeypatch.delenv("ROSTER_DATA", raising=False)
    monkeypatch.setenv("ROSTER_CACHE", str(tmp_path))
    with pytest.raises(RosterError, match=r"run `roster lm fetch \S+` .*ROSTER_DATA"):
        data.load(name)
    assert f"roster lm fetch {name}" in refuse("lm", "eval", name)
    monkeypatch.setenv("ROSTER_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(RosterError, match="not a folder"):
        data.load(name)


def test_other_texts_than_the_figures_belong_to_are_refused(monkeypatch, tmp_path):
    source = sources.sources()[NAME]
    path = tmp_path / source.folder_of_texts / source.files[0].path
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"turns": [f"question {n}"]}) + "\n" for n in range(80)))
    monkeypatch.setenv("ROSTER_DATA", str(tmp_path))
    with pytest.raises(RosterError, match="not those that the figures belong to"):
        data.load(NAME)
    path.write_text("[1, 2")
    with pytest.raises(RosterError, match="damaged"):
        data.load(NAME)


def test_everything_is_pinned():
    for source in sources.sources().values():
        assert len(source.commit) == 40
        assert len(source.texts) == 64
        assert source.licence
        # What has no hash of its own is checked by the texts read from it; there is exactly one such file then.
        assert all(file.sha256 for file in source.files) or len(source.files) == 1


def test_the_data_of_the_package_are_figures():
    kept = {".py", ".npz", ".json", ".txt", ".upstream"}
    paths = [
        path for path in (PACKAGE / "lm" / "data").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {path.suffix for path in paths} <= kept
    for path in paths:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                for name in stored.files:
                    short = stored[name].dtype.kind != "U" or max(map(len, stored[name].tolist())) < 60
                    assert short, f"{path.name}: {name} has texts"
    assert sum(path.stat().st_size for path in paths if path.suffix != ".py") < 500_000


def test_no_file_of_the_package_contains_a_question():
    """Every question of every collection against every file; a question is known by its middle."""
    blob = io.BytesIO()
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and path.suffix in {".py", ".json", ".jsonl", ".txt", ".csv", ".yaml", ".j2", ".md"}:
            blob.write(path.read_bytes() + b"\n")
    # Spacing does not count: words of the package joined by one space, and so are those of the questions.
    package = " ".join(blob.getvalue().decode("utf-8", "replace").split())
    seen = {package[n : n + 40] for n in range(len(package) - 40)}
    for name in sources.sources():
        needed(name)
        prompts, answers = texts.upstream(name)
        for text in [*([] if name == "smoothie-cnn" else prompts), *(each for row in answers for each in row)]:
            words = " ".join(text.split())
            middle = words[len(words) // 2 - 20 :][:40]
            assert len(middle) < 40 or middle not in seen, f"{name}: {middle!r}"
