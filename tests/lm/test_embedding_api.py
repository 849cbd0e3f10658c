"""Vectors from a server: what the real `openai` client sends and reads, paid once, repeated, and refused in words."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm.encode import EmbeddingAPI, TfIdf, WithFigures, encoder
from roster.lm.estimate import KNN
from roster.lm.offline import OfflinePolicy, load_policy
from roster.recipes import RECIPES


class Stub(BaseHTTPRequestHandler):
    """Answers as OpenAI's reference says: in the format that was asked for, and here in another order."""

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], request))
        if self.server.failures:
            status, headers, body = self.server.failures.pop(0)
        else:
            rows = [self.vector(text)[: request.get("dimensions")] for text in request["input"]]
            if request.get("encoding_format") == "base64":
                rows = [base64.b64encode(np.array(row, dtype="<f4").tobytes()).decode() for row in rows]
            data = [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(rows)][::-1]
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            status, headers, body = 200, {}, {"object": "list", "model": request["model"], "data": data, "usage": usage}
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    @staticmethod
    def vector(text):
        """Counts of a few words, so that like prompts are near each other."""
        return [3.0 * text.count(word) for word in ("cat", "dog", "bird", "a", "e")] + [1.0]

    def log_message(self, *_):
        """Nothing on the console."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("ROSTER_CACHE", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    stub = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    stub.asked, stub.failures = [], []
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield stub
    stub.shutdown()
    stub.server_close()


def made(server, **options):
    return EmbeddingAPI("tiny-embed", f"http://127.0.0.1:{server.server_port}/v1", **options)


def test_rows_are_the_servers_in_batches_and_in_order(server):
    prompts = [f"{'cat ' * n}dog" for n in range(7)]
    rows = made(server, batch=3).encode(prompts)
    for row, prompt in zip(rows, prompts, strict=True):
        expected = np.array(Stub.vector(prompt))
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-6)
    assert [len(request["input"]) for _, _, request in server.asked] == [3, 3, 1]
    path, key, request = server.asked[0]
    assert path == "/v1/embeddings"
    assert key == "Bearer sk-secret"
    assert request["model"] == "tiny-embed"
    assert "dimensions" not in request


def test_nothing_is_paid_twice_even_by_another_process(server):
    made(server).encode(["a cat", "a dog"])
    again = made(server).encode(["a dog", "a bird", "a dog"])
    assert [request["input"] for _, _, request in server.asked] == [["a cat", "a dog"], ["a bird"]]
    np.testing.assert_array_equal(again[0], again[2])
    made(server, dimensions=3).encode(["a dog"])  # another width is another row
    assert server.asked[-1][2]["dimensions"] == 3


def test_what_fails_for_a_moment_is_repeated(server):
    server.failures += [(429, {"Retry-After-Ms": "5"}, {"error": {"message": "slow down"}})]
    server.failures += [(500, {"Retry-After-Ms": "5"}, {"error": {"message": "oops"}})]
    assert made(server).encode(["a cat"]).shape == (1, 6)
    assert len(server.asked) == 3


def test_rows_before_a_failure_stay_paid(server):
    texts = ["a cat", "a dog", "a bird"]
    made(server).encode(texts[:1])
    server.failures += [(400, {}, {"error": {"message": "too long"}})]
    with pytest.raises(RosterError, match=r"tiny-embed.*too long.*call again"):
        made(server, batch=1).encode(texts)
    made(server).encode(texts)
    assert server.asked[-1][2]["input"] == ["a dog", "a bird"]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ((401, {}, {"error": {"message": "bad key"}}), r"bad key.*OPENAI_API_KEY"),
        ((404, {}, {"error": {"message": "no such model"}}), "does the server have this model"),
        ((200, {}, {"object": "list", "model": "m", "data": []}), "(?i)gave|no embedding"),
        ((200, {}, {"object": "list", "model": "m", "data": [{"index": 0, "embedding": [1.0]}]}), "1 vectors for 2"),
    ],
)
def test_refusals_say_what_to_do(server, failure, words):
    server.failures.append(failure)
    with pytest.raises(RosterError, match=words):
        made(server).encode(["a cat", "a dog"])


def test_nobody_there():
    with pytest.raises(RosterError, match="is the server running"):
        EmbeddingAPI("m", "http://127.0.0.1:9/v1", retries=0, timeout=2).encode(["a"])


def test_empty_and_long_prompts_go_out_as_servers_accept_them(server):
    made(server, most_characters=5).encode(["", "a cat and more"])
    assert server.asked[0][2]["input"] == [" ", "a cat"]


def test_a_policy_keeps_address_and_model_and_no_key(server, tmp_path):
    records = tiny.records(150)
    estimator = KNN(10, encoder=made(server)).fit(records.split("train"))
    folder = OfflinePolicy("p", estimator, RECIPES["lm-knn"]().rule).save(tmp_path / "policy")
    assert "sk-secret" not in (folder / "roster.json").read_text()
    before = len(server.asked)
    prompt = records.prompts[0]
    assert (
        load_policy(folder).decide(prompt).model
        == OfflinePolicy("p", estimator, RECIPES["lm-knn"]().rule).decide(prompt).model
    )
    assert len(server.asked) == before


def test_names_lead_to_encoders():
    assert encoder("api:e5@http://localhost:11434/v1").url == "http://localhost:11434/v1"
    assert encoder("api:text-embedding-3-small").url == "https://api.openai.com/v1"
    figured = encoder("tfidf+figures")
    assert isinstance(figured, WithFigures)
    assert isinstance(figured.encoder, TfIdf)
    with pytest.raises(RosterError, match="api:MODEL"):
        encoder("api:")
