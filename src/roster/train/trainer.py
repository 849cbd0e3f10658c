"""transformers' `Trainer` for routed models: checkpoints hold the mixture and can be resumed.

Of routed adapters they hold what is trained, and the frozen base stays where it is; of routed blocks the whole model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from roster.saving import MANIFEST, Wanted
from roster.train.schedule import advance

_STATE = "trainer_state.json"


class RoutedTrainer(Trainer):
    """Saves and reloads a mixture as its own folder."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:  # Trainer asks every process, and each has the whole
            return
        model: Any = self.model
        model.roster.save(model, Path(output_dir or self.args.output_dir or "."), Wanted(False, state_dict))


class Advance(TrainerCallback):
    """Tells the parts of the model after every optimiser step how far the training has come."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Called by the trainer."""
        advance(model, (state.global_step + 1) / max(state.max_steps, 1))


def last_checkpoint(folder: Path, weights: str = MANIFEST) -> Path | None:
    """The newest checkpoint that was written to its end, or None; `weights` is the file that stands for the model."""
    whole = [p for p in folder.glob("checkpoint-*") if (p / weights).exists() and (p / _STATE).exists()]
    return max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)
