"""Score: how well does each expert suit each token? `(x_TD, context) -> scores_TE`, one idea a file."""

from roster.score.activation_norm import ActivationNorm
from roster.score.attention import Attention
from roster.score.barred import Barred
from roster.score.by_cluster import ByCluster
from roster.score.carried import Carried, Gate
from roster.score.codebook import Codebook
from roster.score.constant import Constant
from roster.score.cosine import Cosine
from roster.score.decided import Decided
from roster.score.distilled import Distilled
from roster.score.from_memory import FromMemory
from roster.score.grouped_pooling import GroupedPooling
from roster.score.hidden_from import HiddenFrom
from roster.score.hierarchical import Hierarchical
from roster.score.hypernetwork import Hypernetwork
from roster.score.hyperspherical import Hyperspherical
from roster.score.linear import Linear
from roster.score.location import Location
from roster.score.mean_gate import MeanGate
from roster.score.noisy import Noisy
from roster.score.of_outputs import OfOutputs
from roster.score.offset import Offset
from roster.score.patched import Patched
from roster.score.per_rank import PerRank
from roster.score.prompt_pooled import PromptPooled
from roster.score.prompted import Prompted
from roster.score.prototype import Prototype
from roster.score.random import Random
from roster.score.recurrent import Recurrent
from roster.score.slots import Slots
from roster.score.task_embedding import TaskEmbedding
from roster.score.task_gate import TaskGate
from roster.score.task_id import TaskTable
from roster.score.token_id import TokenTable
from roster.score.total import Total

__all__ = [
    "ActivationNorm",
    "Attention",
    "Barred",
    "ByCluster",
    "Carried",
    "Codebook",
    "Constant",
    "Cosine",
    "Decided",
    "Distilled",
    "FromMemory",
    "Gate",
    "GroupedPooling",
    "HiddenFrom",
    "Hierarchical",
    "Hypernetwork",
    "Hyperspherical",
    "Linear",
    "Location",
    "MeanGate",
    "Noisy",
    "OfOutputs",
    "Offset",
    "Patched",
    "PerRank",
    "PromptPooled",
    "Prompted",
    "Prototype",
    "Random",
    "Recurrent",
    "Slots",
    "TaskEmbedding",
    "TaskGate",
    "TaskTable",
    "TokenTable",
    "Total",
]
