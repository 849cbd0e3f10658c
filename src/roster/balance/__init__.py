"""Balance: is the work spread? `(route, context) -> loss`, and/or a `bias_E` that `select` reads; one idea a file."""

from roster.balance.cluster_variance import ClusterVariance
from roster.balance.duty import Duty
from roster.balance.expected_cost import ExpectedCost
from roster.balance.load_balancing import LoadBalancing
from roster.balance.locality import Locality
from roster.balance.loss_free import LossFreeBias
from roster.balance.parameter_penalty import ParameterPenalty
from roster.balance.quantization import Quantization
from roster.balance.z_loss import ZLoss

__all__ = [
    "ClusterVariance",
    "Duty",
    "ExpectedCost",
    "LoadBalancing",
    "Locality",
    "LossFreeBias",
    "ParameterPenalty",
    "Quantization",
    "ZLoss",
]
