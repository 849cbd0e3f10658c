"""Expert prototyping's claim: one expert of each of k groups is no worse than the best k of all, without a sort and
without a balance loss. That every token has exactly one expert of each group is a test, not a claim.
"""

from __future__ import annotations

from evidence.grounds.field import by_lot, error_of, over_all
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic

TOP2 = error_of("gshard-top2", change=over_all(2))

CHECKS = (
    make_check(
        slug="expert-prototyping",
        version=1,
        claim="One expert from each of two groups is no worse than the best two of all, without a balance loss.",
        ground="12 equally frequent clusters of tokens, each with a function of its own; one block; 600 steps of 256",
        budget="8 experts of 8 units, 2 serve; one group: 8 experts of 16 units, 1 serves; equal arithmetic",
        contenders={
            "k top-1": ("two groups, probabilities as weights, no balance loss", error_of("expert-prototyping")),
            "top-2": (
                "best two, probabilities as weights, balance 0.01",
                error_of("gshard-top2", change=over_all(2)),
            ),
            "top-2, renormalised": ("best two, weights sum to one, balance 0.01", error_of("gshard-top2")),
            "one group": ("top-1, no balance loss, as much arithmetic", error_of("expert-prototyping", {"k": 1})),
            "random": ("control: two experts at random", error_of("gshard-top2", change=by_lot(2))),
        },
        pairs=Pairs("k top-1", "top-2", "one group", "random", "top-2"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02, "no worse"),
    ),
)
