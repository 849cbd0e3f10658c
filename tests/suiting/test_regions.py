"""Prompts as experts: regions against scikit-learn's k-means, choices against trying them all, likelihood by hand."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

import tiny
from roster import RosterError
from roster.recipes import find
from roster.suiting.regions import Demo, PromptMixture, Region, likelihood


def embed(texts):
    """Two rules: numbers live on the left, words on the right."""
    return np.array([[5.0 if text[0].isalpha() else -5.0, ord(text[0]) / 100] for text in texts])


NUMBERS = [("1 2", "3"), ("4 4", "8"), ("2 7", "9"), ("5 5", "10"), ("6 1", "7")]
WORDS = [("cat", "tac"), ("dog", "god"), ("sun", "nus")]
VALIDATION = [("3 3", "6"), ("8 1", "9"), ("pen", "nep"), ("map", "pam")]
ADD, TURN = "Add the two numbers.", "Turn the word round."


def score(prompt, answer):
    """A model that can add when told or shown sums, and turn words round when told to, and shown none of these."""
    query = prompt.rsplit("Input: ", 1)[1].split("\n")[0]
    sums, turned = prompt.count("Output: ") and "Output: 8" in prompt, "Output: tac" in prompt
    right = (TURN in prompt) + 0.5 * turned if query[0].isalpha() else (ADD in prompt) + 2.0 * bool(sums)
    return right - 0.001 * len(prompt)


def propose(others):
    return [ADD, "Be brief."] if others[0][0][0].isdigit() else [TURN, "Answer."]


def build(**options):
    return find("mixture-of-prompts")(options)(NUMBERS + WORDS, VALIDATION, embed, score, propose)


def test_regions_are_those_of_k_means_and_demos_are_alike_many():
    mixture = build()
    assert len(mixture.regions) == 2
    rows = embed([query for query, _ in NUMBERS + WORDS])
    fit = KMeans(n_clusters=2, n_init=10, random_state=0).fit(rows)
    np.testing.assert_allclose(sorted(mixture.centres_KD.tolist()), sorted(fit.cluster_centers_.tolist()))
    queries = ["9 9", "tree", "1 0"]
    assert mixture.route(queries) == [int(np.argmin(((embed([q]) - mixture.centres_KD) ** 2).sum(1))) for q in queries]
    words, numbers = (mixture.regions[mixture.route([query])[0]] for query in ("tree", "9 9"))
    assert [len(each.demos) for each in (words, numbers)] == [4, 4]  # 8 / 2: cut, and repeated
    assert [demo.query for demo in words.demos] == ["cat", "dog", "sun", "cat"]
    assert [demo.query for demo in numbers.demos] == [query for query, _ in NUMBERS[:4]]


def test_each_region_takes_the_instruction_that_goes_best_with_its_demos():
    """Sums are shown, so telling to add gains nothing but length; words need telling."""
    mixture = build()
    words, numbers = (mixture.regions[mixture.route([query])[0]] for query in ("tree", "9 9"))
    assert words.instruction == TURN
    best = max(
        ["", ADD, TURN, "Be brief.", "Answer."],
        key=lambda text: sum(
            score(numbers.model_copy(update={"instruction": text}).prompt(q), a) for q, a in VALIDATION[:2]
        ),
    )
    assert numbers.instruction == best
    assert mixture.prompts(["tree"]) == [
        f"{TURN}\n\nInput: cat\nOutput: tac\n\nInput: dog\nOutput: god\n\nInput: sun\nOutput: nus\n\n"
        "Input: cat\nOutput: tac\n\nInput: tree\nOutput:"
    ]


def test_routed_prompts_beat_the_best_single_prompt_and_shuffled_ones():
    mixture = build()
    routed = np.mean([score(mixture.prompts([q])[0], a) for q, a in VALIDATION])
    single = max(np.mean([score(region.prompt(q), a) for q, a in VALIDATION]) for region in mixture.regions)
    other = [1 - k for k in mixture.route([q for q, _ in VALIDATION])]
    shuffled = np.mean([score(mixture.regions[k].prompt(q), a) for k, (q, a) in zip(other, VALIDATION, strict=True)])
    assert routed > single + 0.5
    assert shuffled < single


def test_without_instructions_there_are_demonstrations_alone():
    mixture = find("mixture-of-prompts")({"regions": 3})(NUMBERS + WORDS, VALIDATION, embed, score)
    assert len(mixture.regions) == 3
    assert {each.instruction for each in mixture.regions} == {""}


def test_it_is_saved_as_json(tmp_path):
    mixture = build()
    mixture.save(tmp_path / "prompts")
    again = PromptMixture.load(tmp_path / "prompts", embed)
    assert again.prompts(["tree", "9 9"]) == mixture.prompts(["tree", "9 9"])
    with pytest.raises(RosterError, match="embedded in 3 dimensions"):
        PromptMixture.load(tmp_path / "prompts", lambda texts: np.zeros((len(texts), 3))).route(["a"])
    (tmp_path / "prompts" / "prompts.json").write_text('{"regions": [{"centre": "far"}]}')
    with pytest.raises(RosterError, match="is no mixture of prompts"):
        PromptMixture.load(tmp_path / "prompts", embed)


def test_likelihood_is_the_mean_log_probability_of_the_answer():
    class Tokens:
        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": tiny.Tokenizer()(text)["input_ids"]}

    model, prompt, answer = tiny.base(), "ab", "cd"
    ids = tiny.Tokenizer()("ab cd")["input_ids"]
    with torch.no_grad():
        log_SV = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(1)
    expected = np.mean([float(log_SV[at - 1, ids[at]]) for at in (2, 3, 4)])
    assert likelihood(model, Tokens())(prompt, answer) == pytest.approx(expected, abs=1e-5)


def test_refused():
    make = find("mixture-of-prompts")
    with pytest.raises(RosterError, match="at least two demonstrations"):
        make({})(NUMBERS[:1], VALIDATION, embed, score)
    with pytest.raises(RosterError, match="cannot be cut into 99"):
        make({"regions": 99})(NUMBERS, VALIDATION, embed, score)
    with pytest.raises(RosterError, match="at least one region"):
        PromptMixture([], embed)
    assert (
        Region(centre=[0.0], demos=[Demo(query="a", answer="b")]).prompt("c")
        == "Input: a\nOutput: b\n\nInput: c\nOutput:"
    )
