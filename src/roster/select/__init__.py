"""Select: who is chosen, with what weight? `(scores_TE, context, bias_E) -> Route`, one idea a file.

`bias_E` steers who is chosen but not with what weight (loss-free balancing); a part that cannot honour it says so
with `reads_bias = False`, and `Router` refuses the combination.
"""

from roster.select.all import All
from roster.select.allotted import Allotted
from roster.select.assignment import BalancedAssignment
from roster.select.best_group import BestGroup
from roster.select.broadcast import Broadcast
from roster.select.capacity import Capacity
from roster.select.cluster_dropout import ClusterDropout
from roster.select.dense_to_sparse import DenseToSparse
from roster.select.dropped import Dropped
from roster.select.entmax import Entmax
from roster.select.evenly import Evenly
from roster.select.expert_choice import ExpertChoice
from roster.select.expert_dropout import ExpertDropout
from roster.select.forced import Forced
from roster.select.gated_top_k import GatedTopK
from roster.select.given import Given
from roster.select.grouped import Grouped
from roster.select.grouped_top_k import GroupedTopK
from roster.select.growing_top_k import GrowingTopK
from roster.select.gumbel import GumbelTop1
from roster.select.gumbel_mixture import GumbelMixture
from roster.select.hard_top1 import HardTop1
from roster.select.native import Native
from roster.select.null_top_k import NullTopK
from roster.select.parts import PartRoute, Parts
from roster.select.present import Present
from roster.select.rank import Rank
from roster.select.relaxed_bernoulli import RelaxedBernoulli
from roster.select.relu import ReLU
from roster.select.sinkhorn import Sinkhorn
from roster.select.soft import Soft
from roster.select.sparse_mixer import SparseMixer
from roster.select.threshold import Threshold
from roster.select.top_k import TopK
from roster.select.top_p import TopP
from roster.select.top_ranks import TopRanks
from roster.select.top_tokens import TopTokens
from roster.select.unit import Unit
from roster.select.universal import Universal

__all__ = [
    "All",
    "Allotted",
    "BalancedAssignment",
    "BestGroup",
    "Broadcast",
    "Capacity",
    "ClusterDropout",
    "DenseToSparse",
    "Dropped",
    "Entmax",
    "Evenly",
    "ExpertChoice",
    "ExpertDropout",
    "Forced",
    "GatedTopK",
    "Given",
    "Grouped",
    "GroupedTopK",
    "GrowingTopK",
    "GumbelMixture",
    "GumbelTop1",
    "HardTop1",
    "Native",
    "NullTopK",
    "PartRoute",
    "Parts",
    "Present",
    "Rank",
    "ReLU",
    "RelaxedBernoulli",
    "Sinkhorn",
    "Soft",
    "SparseMixer",
    "Threshold",
    "TopK",
    "TopP",
    "TopRanks",
    "TopTokens",
    "Unit",
    "Universal",
]
