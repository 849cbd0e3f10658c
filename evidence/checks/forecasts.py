"""Claims of routers that forecast every model's worth from a prompt, judged by the true chances of simulated models.

A part is credited by what stands in its place: for EmbedLLM's vectors and IRT-Router's abilities one logistic
regression per model on the same vectors of the prompts, for a leaderboard per prompt one for all, for rankings in
clusters one ranking for all.
"""

from __future__ import annotations

from evidence.grounds.simulated import best_single, fitted, partly, quality
from evidence.protocol.check import Check, Contender, make_check
from evidence.protocol.declaration import Pairs, Statistic

EFFECT = 0.01
NEIGHBOURS: tuple[str, Contender] = ("the mean of the 40 nearest prompts of the records", quality(fitted("lm-knn")))
LOGISTIC: tuple[str, Contender] = ("a logistic regression per model", quality(fitted("lm-logistic")))
SINGLE: tuple[str, Contender] = ("the best model of the records, for every prompt", quality(best_single))
TOLD: tuple[str, Contender] = (
    "control: the truth for a fifth of the prompts, the best single model for the others",
    quality(partly(0.2)),
)


def _claim(slug: str, claim: str, contenders: dict[str, tuple[str, Contender]], pairs: Pairs) -> Check:
    return make_check(
        slug=slug,
        version=1,
        claim=claim,
        ground="six simulated models of known worth, 320 recorded prompts of each of six kinds; judged on 720 others",
        budget="the same vectors of the prompts and the same records for all; no price",
        contenders=contenders,
        pairs=pairs,
        statistic=Statistic("true chance that the chosen model is right", "higher", EFFECT),
    )


CHECKS = (
    _claim(
        "embedllm",
        "Vectors of models, learned with a map from prompts, route better than the nearest prompts do.",
        {
            "EmbedLLM": ("vectors of 64 numbers for models and prompts", quality(fitted("embedllm"))),
            "neighbours": NEIGHBOURS,
            "one by one": LOGISTIC,
            "blind": ("the same learned beside shuffled prompts", quality(fitted("embedllm", blind=True))),
            "single": SINGLE,
            "told": TOLD,
        },
        Pairs("EmbedLLM", "neighbours", "one by one", "told", "single"),
    ),
    _claim(
        "irt-router",
        "Abilities of models and demands of prompts, learned together, route better than other routers.",
        {
            "IRT-Router": ("four abilities", quality(fitted("irt-router"))),
            "neighbours": NEIGHBOURS,
            "one by one": LOGISTIC,
            "blind": ("the same learned beside shuffled prompts", quality(fitted("irt-router", blind=True))),
            "single": SINGLE,
            "told": TOLD,
        },
        Pairs("IRT-Router", "neighbours", "one by one", "told", "single"),
    ),
    _claim(
        "prompt-to-leaderboard",
        "Routing by a leaderboard for the very prompt is better than by one leaderboard for all prompts.",
        {
            "leaderboard": ("ratings from the prompt, learned from votes", quality(fitted("prompt-to-leaderboard"))),
            "Elo": ("one leaderboard for all prompts: without the prompt", quality(fitted("lm-elo"))),
            "single": SINGLE,
            "told": TOLD,
        },
        Pairs("leaderboard", "Elo", "Elo", "told", "single"),
    ),
    _claim(
        "avengers",
        "Rankings of models in clusters of prompts beat the best single model.",
        {
            "Avengers": ("64 clusters, the nearest 11 vote by rank", quality(fitted("avengers"))),
            "single": SINGLE,
            "one cluster": ("one ranking for all prompts", quality(fitted("avengers", {"clusters": 1, "nearest": 1}))),
            "k-means": ("the nearest of 40 clusters, by its mean scores", quality(fitted("lm-kmeans"))),
            "told": TOLD,
        },
        Pairs("Avengers", "single", "one cluster", "told", "single"),
    ),
)
