"""Experts: what do they compute? One kind a file."""

from roster.experts.assorted import Assorted
from roster.experts.factored import FactoredSwiGLU
from roster.experts.low_rank import LowRankExperts
from roster.experts.mpo import MPO, MPOExperts
from roster.experts.scaling import ScalingExperts
from roster.experts.sized import SizedSwiGLU
from roster.experts.spawned import Spawned
from roster.experts.swiglu import SwiGLU

__all__ = [
    "MPO",
    "Assorted",
    "FactoredSwiGLU",
    "LowRankExperts",
    "MPOExperts",
    "ScalingExperts",
    "SizedSwiGLU",
    "Spawned",
    "SwiGLU",
]
