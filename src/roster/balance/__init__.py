"""Balance: is the work spread? `(route, context) -> loss`, and/or a `bias_E` that `select` reads; one idea a file."""

from roster.balance.adaptive_l1 import AdaptiveL1
from roster.balance.cluster_variance import ClusterVariance
from roster.balance.duty import Duty
from roster.balance.entropy import Entropy
from roster.balance.expected_cost import ExpectedCost
from roster.balance.load_balancing import LoadBalancing
from roster.balance.locality import Locality
from roster.balance.loss_free import LossFreeBias
from roster.balance.mean_weight import MeanWeight
from roster.balance.mutual_information import MutualInformation
from roster.balance.noisy_load import Importance, NoisyLoad
from roster.balance.null_load import NullLoadBalancing
from roster.balance.parameter_penalty import ParameterPenalty
from roster.balance.predicted_duty import PredictedDuty
from roster.balance.quantization import Quantization
from roster.balance.z_loss import ZLoss

__all__ = [
    "AdaptiveL1",
    "ClusterVariance",
    "Duty",
    "Entropy",
    "ExpectedCost",
    "Importance",
    "LoadBalancing",
    "Locality",
    "LossFreeBias",
    "MeanWeight",
    "MutualInformation",
    "NoisyLoad",
    "NullLoadBalancing",
    "ParameterPenalty",
    "PredictedDuty",
    "Quantization",
    "ZLoss",
]
