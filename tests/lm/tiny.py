"""Small records whose truth is known: prompts about cats, dogs or birds; each model knows some of them."""

import numpy as np

from roster.lm.records import Records

MODELS = ("cat-person", "dog-person", "dear-all-rounder")
ANIMALS = ("cat", "dog", "bird")
SKILL = np.array([[0.95, 0.05, 0.8], [0.05, 0.95, 0.8], [0.1, 0.1, 0.8]])
COST = np.array([1.0, 2.0, 10.0])
FILLERS = ("please tell me about my", "what does a young", "why would any", "describe the old", "name one thing a")
KINDS = {
    "cat": ("feline", "tabby", "tom", "felidae"),
    "dog": ("canine", "hound", "terrier", "canidae"),
    "bird": ("avian", "finch", "robin", "aves"),
}
WORDS = {
    "cat": ("purr", "whiskers", "mew", "paws", "mice", "nap", "claws", "sofa", "milk", "kitten"),
    "dog": ("bark", "leash", "bone", "walk", "fetch", "tail", "kennel", "growl", "puppy", "pack"),
    "bird": ("sing", "nest", "wings", "eggs", "beak", "feather", "fly", "perch", "seeds", "chick"),
}


def records(count=300, seed=0, delays=True, **changes):
    rng = np.random.default_rng(seed)
    animal_N = rng.integers(0, 3, count)
    prompts = []
    for n, a in enumerate(animal_N):
        words = WORDS[ANIMALS[a]]
        kind = " ".join((ANIMALS[a], *KINDS[ANIMALS[a]]))
        prompts.append(f"{FILLERS[n // 100 % 5]} {kind}: {words[n // 10 % 10]} and {words[n % 10]}")
    prompts = tuple(prompts)
    score_NM = (rng.random((count, 3)) < SKILL[animal_N]).astype(float)
    tokens_N1 = np.array([[len(prompt) / 4] for prompt in prompts])
    splits = tuple(("train", "train", "train", "validation", "test")[n % 5] for n in range(count))
    kwargs = {
        "name": "animals",
        "prompts": prompts,
        "models": MODELS,
        "score_NM": score_NM,
        "cost_NM": COST * (1 + 0.1 * tokens_N1),
        "delay_NM": np.tile([0.5, 0.5, 3.0], (count, 1)) if delays else np.full((count, 3), np.nan),
        "datasets": tuple(ANIMALS[a] for a in animal_N),
        "splits": splits,
    }
    return Records(**{**kwargs, **changes})


def with_answers(seed=0, count=300):
    """The same with answers: right ones agree, wrong ones scatter."""
    made = records(count, seed)
    rng = np.random.default_rng(seed + 1)
    answers = np.empty(made.score_NM.shape, dtype=object)
    for n, m in np.ndindex(answers.shape):
        answers[n, m] = f"'{n}'" if made.score_NM[n, m] else f"wrong {rng.integers(6)}"
    return records(count, seed, answer_NM=answers)


def told_apart(count=240, seed=0, slips=0.0, **changes):
    """The same with answers whose words give them away, but for a share of slips: a judge can learn which are right."""
    made = records(count, seed)
    slip_NM = np.random.default_rng([seed, 7]).random(made.score_NM.shape) < slips
    answers = np.empty(made.score_NM.shape, dtype=object)
    for n, m in np.ndindex(answers.shape):
        answers[n, m] = f"surely {n}" if made.score_NM[n, m] != slip_NM[n, m] else f"perhaps {n}"
    return records(count, seed, answer_NM=answers, **changes)


def self_checked(count=400, seed=0, checks=8, **changes):
    """The cheap models check themselves: right answers are agreed with more often; eight checks cost half a call."""
    made = records(count, seed)
    rng = np.random.default_rng([seed, 8])
    checked_NM = rng.binomial(checks, np.where(made.score_NM > 0, 0.8, 0.3)) / checks
    check_cost_NM = 0.5 * checks / 8 * made.cost_NM
    checked_NM[:, 2] = check_cost_NM[:, 2] = np.nan
    return records(count, seed, **{"checked_NM": checked_NM, "check_cost_NM": check_cost_NM, **changes})
