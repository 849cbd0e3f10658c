"""Score: how well does each expert suit each token? `(x_TD, context) -> scores_TE`, one idea a file."""

from roster.score.activation_norm import ActivationNorm
from roster.score.barred import Barred
from roster.score.constant import Constant
from roster.score.cosine import Cosine
from roster.score.from_memory import FromMemory
from roster.score.grouped_pooling import GroupedPooling
from roster.score.linear import Linear
from roster.score.offset import Offset
from roster.score.prompt_pooled import PromptPooled
from roster.score.prototype import Prototype
from roster.score.random import Random
from roster.score.task_embedding import TaskEmbedding
from roster.score.task_gate import TaskGate
from roster.score.task_id import TaskTable

__all__ = [
    "ActivationNorm",
    "Barred",
    "Constant",
    "Cosine",
    "FromMemory",
    "GroupedPooling",
    "Linear",
    "Offset",
    "PromptPooled",
    "Prototype",
    "Random",
    "TaskEmbedding",
    "TaskGate",
    "TaskTable",
]
