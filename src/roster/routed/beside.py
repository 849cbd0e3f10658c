"""What `RoutedModel` finds beside it in the class of every routed model, for type checkers alone.

That class is made when experts are attached (`roster.routed.model.routed_class`), of `RoutedModel` and of the class of
transformers that the model had before, which is known only then. Listed is what roster uses of it, no more.
"""
# ruff: noqa: D102  (what these do is in the documentation of transformers)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    class TransformersModel(nn.Module):
        """A model of transformers, as far as a routed one leans on it."""

        config: Any
        device: torch.device
        dtype: torch.dtype
        base_model: nn.Module
        base_class: type[Any]
        input_names: tuple[str, ...]

        def forward(self, *args: Any, **kwargs: Any) -> Any: ...
        def generate(self, *args: Any, **kwargs: Any) -> Any: ...
        def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...
        def get_input_embeddings(self) -> nn.Module: ...
        def get_encoder(self) -> nn.Module: ...
        def save_pretrained(self, *args: Any, **kwargs: Any) -> Any: ...
        def push_to_hub(self, *args: Any, **kwargs: Any) -> Any: ...
        def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None: ...

else:
    TransformersModel = object
