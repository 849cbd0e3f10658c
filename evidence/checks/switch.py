"""Switch Transformer's own claim: at equal cost per token, a top-1 mixture learns in fewer steps than a dense block.

Toy: 12 clusters of tokens, each with a function of its own; both have 16 hidden units per token, the mixture 4 experts.
"""

from __future__ import annotations

from evidence.checks.choosing import curve, share_to_reach


def check(seed: int) -> dict[str, float]:
    """Relative errors, and the share of the training that Switch needs to reach the dense block's last error."""
    dense, switch = curve(seed, "dense-active"), curve(seed, "switch-transformer")
    return {
        "dense: error": float(dense[-1]),
        "Switch: error": float(switch[-1]),
        "steps to the dense error": share_to_reach(switch, float(dense[-1])),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed Switch reaches the dense block's last error in at most half of the steps."""
    return all(each["steps to the dense error"] <= 0.5 for each in figures)
