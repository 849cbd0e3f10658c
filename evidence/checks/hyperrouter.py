"""HyperRouter's own claim: between a frozen random router, which learns too little, and a trained one, whose experts
grow alike. Small language models, 8 experts of which 2 serve; the yardsticks are the same mixture with its linear
router frozen and trained.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.small_lm import blocks, build, held_out, learn, similarity


def check(seed: int) -> dict[str, float]:
    """Validation losses in nats per token, and the mean cosine between experts' answers to the same token."""
    figures: dict[str, float] = {}
    for name in ("HyperRouter", "trained", "frozen"):
        model = build("hyperrouter" if name == "HyperRouter" else "gshard-top2", seed)
        if name == "frozen":
            for block in blocks(model):
                block.router.requires_grad_(False)
        run = learn(model, seed)
        figures[f"{name}, loss"] = run.validation_loss["all"]
        figures[f"{name}, similarity"] = similarity(run.model, held_out())
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """On average its loss is below the frozen router's and its experts are less alike than the trained router's."""
    mean = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    return bool(
        mean["HyperRouter, loss"] < mean["frozen, loss"]
        and mean["HyperRouter, similarity"] < mean["trained, similarity"]
    )
