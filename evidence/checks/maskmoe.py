"""MaskMoE's claim: where rare tokens see one expert each and frequent ones several, rare ones are learned better than
under an unmasked router.
"""

from __future__ import annotations

from evidence.grounds.recall import STEPS, WORDS, answered, chances, made_by
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic

SKEW, EXPERTS = 1.0, 8
COUNTS = [round(1e6 * float(chance)) for chance in chances(SKEW)]
FREQUENT = {"num_experts": EXPERTS, "visible": 4, "frequent": 0.1, "counts": COUNTS}
UNMASKED = made_by("switch-transformer", {"num_experts": EXPERTS})

CHECKS = (
    make_check(
        slug="maskmoe",
        version=1,
        claim="Facts of rare words are learned better when each rare word sees one expert, and frequent ones several.",
        ground=f"{WORDS} words whose frequency falls as 1 / rank, times 4 relations with answers drawn at random; "
        f"{STEPS} steps of 256; the rarer half of the words counts",
        budget="8 experts of 32 units, one serves",
        contenders={
            "MaskMoE": (
                "the 80 most frequent words see 4 experts, the others one",
                answered(made_by("maskmoe", FREQUENT), skew=SKEW, rare=True),
            ),
            "unmasked": ("all words see all experts: Switch", answered(UNMASKED, skew=SKEW, rare=True)),
            "hash": (
                "every word sees one",
                answered(made_by("hash-routing", {"num_experts": EXPERTS, "counts": COUNTS}), skew=SKEW, rare=True),
            ),
            "less rare": (
                "control: unmasked, rare words drawn a fifth more often",
                answered(UNMASKED, skew=SKEW, rare=True, more=1.2),
            ),
        },
        pairs=Pairs("MaskMoE", "unmasked", "unmasked", "less rare", "unmasked"),
        statistic=Statistic("share of the rare words' facts known", "higher", 0.02),
    ),
)
