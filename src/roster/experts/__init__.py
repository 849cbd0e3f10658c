"""Experts: what do they compute? One kind a file."""

from roster.experts.assorted import Assorted
from roster.experts.factored import FactoredSwiGLU
from roster.experts.feed_forward import FeedForwardExperts
from roster.experts.gated import Gated
from roster.experts.generated import GeneratedExperts, Hypernetwork
from roster.experts.graphs import GraphExperts
from roster.experts.heads import HeadExperts
from roster.experts.low_rank import LowRankExperts
from roster.experts.mlp import MLP
from roster.experts.mpo import MPO, MPOExperts
from roster.experts.null import WithNull
from roster.experts.ragged import Ragged
from roster.experts.ranks import RankExperts
from roster.experts.rescaled import RescaledExperts
from roster.experts.scaled import ScaledExperts
from roster.experts.scaling import ScalingExperts
from roster.experts.slots import SlotExperts
from roster.experts.spawned import Spawned
from roster.experts.stored import StoredExperts
from roster.experts.swiglu import SwiGLU
from roster.experts.virtual_tokens import VirtualTokens

__all__ = [
    "MLP",
    "MPO",
    "Assorted",
    "FactoredSwiGLU",
    "FeedForwardExperts",
    "Gated",
    "GeneratedExperts",
    "GraphExperts",
    "HeadExperts",
    "Hypernetwork",
    "LowRankExperts",
    "MPOExperts",
    "Ragged",
    "RankExperts",
    "RescaledExperts",
    "ScaledExperts",
    "ScalingExperts",
    "SlotExperts",
    "Spawned",
    "StoredExperts",
    "SwiGLU",
    "VirtualTokens",
    "WithNull",
]
