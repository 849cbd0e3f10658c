"""Decision rules: which model, given the estimates and what one wants. One idea a file."""

from roster.lm.decide.base import Rule
from roster.lm.decide.cascade import Cascade, CascadeRule, Replan
from roster.lm.decide.checked import SelfChecked
from roster.lm.decide.limits import Budget, Deadline, Floor
from roster.lm.decide.mix import Mix
from roster.lm.decide.weights import Weights

__all__ = ["Budget", "Cascade", "CascadeRule", "Deadline", "Floor", "Mix", "Replan", "Rule", "SelfChecked", "Weights"]
