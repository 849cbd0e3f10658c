"""reporting: the pages that roster writes. Templates and their style lie here; what they show is computed elsewhere."""

from roster.reporting.page import render

__all__ = ["render"]
