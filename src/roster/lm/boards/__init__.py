"""Public benchmarks of routers: how their own files become records, and how each of them scores a router.

One board a file. What is downloaded from them stays with the user; nothing of theirs comes along.
"""

from roster.lm.boards.routerarena import arena_score, arena_score_of, read_routerarena
from roster.lm.boards.routerbench import aiq, read_routerbench
from roster.lm.boards.scoring import Arena, routerarena_scores, routerbench_scores

__all__ = [
    "Arena",
    "aiq",
    "arena_score",
    "arena_score_of",
    "read_routerarena",
    "read_routerbench",
    "routerarena_scores",
    "routerbench_scores",
]
