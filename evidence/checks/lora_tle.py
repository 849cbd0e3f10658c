"""Token-level adaptation's own claim: when a text changes its task, weights per token follow, and beat weights per
prompt, single adapters and the base.

Two pocket experts, prompts of two parts (one skill each), teacher forcing: the loss on the answers, and the weight of
the expert whose part is being written.
"""

from __future__ import annotations

import numpy as np
import torch

from evidence.checks.pocket_runs import answer_loss
from roster import pocket, trace
from roster.adapters.attach import attach
from roster.adapters.mixing import Mixing
from roster.library import Library
from roster.pocket.skills import COMPOSED, SKILLS, examples
from roster.recipes import find
from roster.recipes.lora_tle import lora_tle

WINDOW = 12


def check(seed: int) -> dict[str, float]:
    """Losses in nats per answer token, averaged over composed skills, and weights of the right expert by part."""
    skill = COMPOSED[seed % len(COMPOSED)]
    first, second = SKILLS[skill].parts
    everything = Library.read(pocket.experts_path())
    library = Library({name: everything[name] for name in (first, second)})
    mixings: dict[str, Mixing | None] = {
        "per token": lora_tle(),
        "per token, window": lora_tle(window=WINDOW),
        "uniform": find("uniform")(),
        "base": None,
    }
    figures = {}
    for name, mixing in mixings.items():
        model, tokenizer = pocket.load_base()
        if mixing is not None:
            attach(model, library, mixing, tokenizer=tokenizer)
        figures[name] = answer_loss(model, tokenizer, [skill], 100)
        if name.startswith("per token"):
            figures[f"{name}: weight follows the switch"] = _follows(model, tokenizer, skill)
    for label, single in (("first expert", first), ("second expert", second)):
        model, tokenizer = pocket.load_base()
        attach(model, Library({single: everything[single]}), find("uniform")())
        figures[label] = answer_loss(model, tokenizer, [skill], 100)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """On average the lowest loss, with the weight moving towards the second expert."""
    mean = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    rivals = [mean[name] for name in ("uniform", "base", "first expert", "second expert")]
    best = min(("per token", "per token, window"), key=lambda name: mean[name])
    return bool(mean[best] < min(rivals) and mean[f"{best}: weight follows the switch"] > 0)


@torch.no_grad()
def _follows(model, tokenizer, skill: str) -> float:
    """Weight of the second expert while its answer is written, less its weight while the first's is."""
    differences = []
    for each in examples(skill, "test", 20):
        head, tail = each.answer.split(" & ")
        lengths = [len(tokenizer(text)["input_ids"]) for text in (each.prompt, each.prompt + head)]
        with trace(model) as routes:
            model(**tokenizer(each.prompt + each.answer, return_tensors="pt"))
        weight_S = routes.gates()[:, 1]
        differences.append(float(weight_S[lengths[1] + 2 :].mean() - weight_S[lengths[0] : lengths[1]].mean()))
        assert tail
    return float(np.mean(differences))
