"""Select: who is chosen, with what weight? `(scores_TE, context, bias_E) -> Route`, one idea a file.

`bias_E` steers who is chosen but not with what weight (loss-free balancing); a part that cannot honour it says so
with `reads_bias = False`, and `Router` refuses the combination.
"""

from roster.select.all import All
from roster.select.capacity import Capacity
from roster.select.cluster_dropout import ClusterDropout
from roster.select.dense_to_sparse import DenseToSparse
from roster.select.entmax import Entmax
from roster.select.forced import Forced
from roster.select.gated_top_k import GatedTopK
from roster.select.grouped_top_k import GroupedTopK
from roster.select.growing_top_k import GrowingTopK
from roster.select.gumbel import GumbelTop1
from roster.select.hard_top1 import HardTop1
from roster.select.native import Native
from roster.select.present import Present
from roster.select.rank import Rank
from roster.select.relaxed_bernoulli import RelaxedBernoulli
from roster.select.relu import ReLU
from roster.select.soft import Soft
from roster.select.sparse_mixer import SparseMixer
from roster.select.threshold import Threshold
from roster.select.top_k import TopK
from roster.select.top_p import TopP
from roster.select.unit import Unit

__all__ = [
    "All",
    "Capacity",
    "ClusterDropout",
    "DenseToSparse",
    "Entmax",
    "Forced",
    "GatedTopK",
    "GroupedTopK",
    "GrowingTopK",
    "GumbelTop1",
    "HardTop1",
    "Native",
    "Present",
    "Rank",
    "ReLU",
    "RelaxedBernoulli",
    "Soft",
    "SparseMixer",
    "Threshold",
    "TopK",
    "TopP",
    "Unit",
]
