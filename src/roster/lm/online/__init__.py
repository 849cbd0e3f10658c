"""Online learning: what is learned from one (prompt, model, score) at a time, seeing only the chosen model's score.

belief     Bayesian linear regression, one observation at a time   (also under the gateway's policy `thompson`)
replay     any learner over recorded scores with partial feedback
identity   LLM Bandit: one belief shared by all models through identity vectors
informed   Thompson sampling whose prior has seen demonstrations
cells      which (model, example) score to pay for next, to find the best model
cascaded   MasRouter's controller: mode, roles, models, by policy gradient
tree       regions of the context, each with beliefs of its own
ranking    the order of experts from as few evaluations as possible
"""

from __future__ import annotations

from roster.lm.online.belief import Belief
from roster.lm.online.identity import IdentityBandit
from roster.lm.online.informed import InformedThompson
from roster.lm.online.replay import Learner, Replayed, replay

__all__ = ["Belief", "IdentityBandit", "InformedThompson", "Learner", "Replayed", "replay"]
