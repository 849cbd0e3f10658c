"""Logging of a gateway: set up once, and limited, so that a flood of requests or of failures is no flood of lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class RateLimit(logging.Filter):
    """Lets so many lines a second pass; the first that passes later says how many did not. Errors always pass.

    Args:
        lines: a second; None: all.
        clock: seconds that never go back.
    """

    def __init__(self, lines: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.lines, self._clock = lines, clock
        self._second, self._passed, self._left_out = -1, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by logging for every line."""
        if self.lines is None or (record.levelno >= logging.ERROR and record.exc_info is None):
            return True
        second = int(self._clock())
        if second != self._second:
            self._second, self._passed = second, 0
        self._passed += 1
        if self._passed > self.lines:
            self._left_out += 1
            return False
        if self._left_out and self._passed == 1:
            record.msg, record.args = f"{record.getMessage()} ({self._left_out} lines were left out)", ()
            self._left_out = 0
        return True


def set_up(lines: int | None) -> None:
    """Lines with times on stderr, at most so many a second."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(RateLimit(lines))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("roster").setLevel(logging.INFO)
