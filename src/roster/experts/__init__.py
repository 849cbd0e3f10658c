"""Experts: what do they compute? One kind a file."""

from roster.experts.assorted import Assorted
from roster.experts.low_rank import LowRankExperts
from roster.experts.scaling import ScalingExperts
from roster.experts.swiglu import SwiGLU

__all__ = ["Assorted", "LowRankExperts", "ScalingExperts", "SwiGLU"]
