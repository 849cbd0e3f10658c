"""Logs of votes: which of two models' answers people preferred, prompt by prompt.

ballots     one line per vote becomes `Votes`; as a folder      (roster.lm.votes.ballots, .storing)
preference  Bradley-Terry per prompt, an estimator              (roster.lm.votes.preference)
agreement   how often held-out votes are foreseen, in a report  (roster.lm.votes.agreement)
"""

from roster.lm.votes.preference import Preference

__all__ = ["Preference"]
