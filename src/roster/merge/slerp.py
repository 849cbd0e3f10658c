"""SLERP: from the base to one model along the great circle between their directions.

Equation: theta = sin((1-t) phi)/sin(phi) theta_0 + sin(t phi)/sin(phi) theta_1 with phi the angle between the two whole
tensors; a straight line where |cos phi| > 0.9995. As in mergekit. Source: Shoemake 1985.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from roster.merge.method import Method, shared
from roster.merge.spheres import Matrix, Spanned

_STRAIGHT = 0.9995


@dataclass
class Slerp(Spanned):
    """Operands: the base (t = 0) and one model (t = 1)."""

    t: float = shared(0.5, 0.0, 1.0)

    def coefficients(self, gram: Matrix) -> Sequence[float]:
        """See the module."""
        norms = [math.sqrt(gram[i, i]) for i in (0, 1)]
        norms = [each if each > 1e-8 else 1.0 for each in norms]
        cosine = max(-1.0, min(1.0, gram[0, 1] / (norms[0] * norms[1])))
        if abs(cosine) > _STRAIGHT:
            return 1 - self.t, self.t
        return arc(self.t, math.acos(cosine))


def arc(t: float, angle: float) -> tuple[float, float]:
    """Weights of the two ends at the share t of an arc."""
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


METHOD = Method("slerp", "SLERP", "Shoemake 1985, SIGGRAPH", Slerp, fewest=1, most=1)
