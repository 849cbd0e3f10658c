"""Training of routers and experts, on transformers' `Trainer`. Start reading at `build.py`."""

from roster.train.at_test_time import AtTestTime
from roster.train.build import build
from roster.train.data import Row, read_rows
from roster.train.expert import Lesson, train_expert
from roster.train.fit import Settings, fit
from roster.train.mixture import train_mixture
from roster.train.moe import Blocks, train_moe

__all__ = [
    "AtTestTime",
    "Blocks",
    "Lesson",
    "Row",
    "Settings",
    "build",
    "fit",
    "read_rows",
    "train_expert",
    "train_mixture",
    "train_moe",
]
