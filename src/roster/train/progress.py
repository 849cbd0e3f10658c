"""What a training says while it runs: how long it will take, then a line now and again, all on standard error."""

from __future__ import annotations

import sys
import time
from typing import Any

from transformers import TrainerCallback

_MEASURED = 2
"""Steps after which the time of a step is known; the first one is slower."""


class Told(TrainerCallback):
    """Lines on standard error: a forecast after the first steps, then step, loss and the time that is left.

    Of several processes the first one tells.
    """

    def __init__(self, what: str = "training"):
        self.what, self.start, self.first = what, 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        self.start, self.first = time.monotonic(), state.global_step
        if self.first and state.is_world_process_zero:
            _say(f"{self.what}: goes on from step {self.first} of {state.max_steps}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        if state.global_step - self.first == _MEASURED and state.is_world_process_zero:
            each = self._seconds(state)
            whole = duration(each * (state.max_steps - self.first))
            _say(f"{self.what}: {state.max_steps - self.first} steps of about {each:.2f} s: about {whole}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Called by the trainer."""
        known = {"loss": "loss", "eval_loss": "held-out loss"}
        said = [f"{word} {logs[name]:.4f}" for name, word in known.items() if name in (logs or {})]
        if said and state.global_step > self.first and state.is_world_process_zero:
            left = duration(self._seconds(state) * (state.max_steps - state.global_step))
            _say(f"{self.what}: step {state.global_step} of {state.max_steps}, {', '.join(said)}, {left} left")

    def _seconds(self, state: Any) -> float:
        """Of one step, so far."""
        seconds: float = (time.monotonic() - self.start) / max(1, state.global_step - self.first)
        return seconds


def duration(seconds: float) -> str:
    """Two units at most: 42 s, 12 min 5 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
