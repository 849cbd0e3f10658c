"""Writing the base of a routed model as transformers itself would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from roster.routed.running import is_added


def write_base(model: Any, folder: Path, instead: Mapping[str, Tensor] | None = None) -> None:
    """The base's own files, as transformers writes them: a copy of its class with none of our modules.

    Args:
        model: a routed model.
        folder: where to.
        instead: tensors that take the place of the base's, by name.
    """
    plain_state = {name: tensor for name, tensor in model.state_dict().items() if not is_added(name)}
    plain_state |= instead or {}
    super(type(model).__mro__[1], model).save_pretrained(folder, state_dict=plain_state)
    config = folder / "config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(type(model).__name__, type(model).base_class.__name__), encoding="utf-8")
    if model.roster.tokenizer is not None:
        model.roster.tokenizer.save_pretrained(folder)
