"""Task arithmetic: differences to the base, weighted and added. A negative weight takes a skill away.

Equation: theta = theta_0 + lambda sum_i w_i (theta_i - theta_0).
Source: Ilharco et al. 2023, arXiv 2212.04089. As in mergekit; `lambda` and `normalize` are mergekit's.
"""

from __future__ import annotations

from dataclasses import dataclass

from roster.merge.method import Method
from roster.merge.task_vectors import TaskVectors


@dataclass
class TaskArithmetic(TaskVectors):
    """Nothing is thinned out."""


METHOD = Method("task_arithmetic", "Task arithmetic", "Ilharco et al. 2023, arXiv 2212.04089", TaskArithmetic)
