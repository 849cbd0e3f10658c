"""The weights are scikit-learn's."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from roster.shelf.words import cosines, pieces

TEXTS = [
    "reverse Write the text backwards. reverse: abcd =",
    "sort\tSort the letters,  please",
    "a b ab abc",
    "Straße ÜBERSETZUNG 漢字",
    "",
]


@pytest.mark.parametrize("asked", ["backwards text", "b", "straße", "letters letters sort", "abc =", "qqq", ""])
def test_cosines_are_those_of_scikit_learn(asked):
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
    expected = (vectorizer.fit_transform(TEXTS) @ vectorizer.transform([asked]).T).toarray().ravel()
    found = cosines([pieces(each) for each in TEXTS], pieces(asked))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_no_texts_or_none_with_words():
    assert cosines([], pieces("a word")).tolist() == []
    assert cosines([pieces(""), pieces(" ")], pieces("a word")).tolist() == [0.0, 0.0]
