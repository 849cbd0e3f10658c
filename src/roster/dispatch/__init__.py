"""Dispatch: how rows that are grouped by expert meet their experts' weights.

Shape legend: T tokens, R rows or (token, expert) pairs grouped by expert, E experts, D and F widths.

One back end a file: `blocks` (one matmul per expert; whole experts in `fused`), `grouped_mm` (torch's own), `triton`
and `reference` (plain). `choose` says which one runs. Where experts are spread over processes, `exchange` sends the
rows to them first.
"""

from roster.dispatch.choose import forget, measured, use
from roster.dispatch.grouped_mm import fits_grouped_mm
from roster.dispatch.operations import feed_forward, grouped_matmul, serve
from roster.dispatch.weights import Weights

__all__ = ["Weights", "feed_forward", "fits_grouped_mm", "forget", "grouped_matmul", "measured", "serve", "use"]
