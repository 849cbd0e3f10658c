"""Whether an adapter fits a model: every tensor has its linear layer, of the right size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import peft
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from roster.errors import RosterError, nearest
from roster.library.adapter import Adapter, LowRank, Vector
from roster.library.reading import WEIGHTS


def check_fits(adapter: Adapter, model: nn.Module) -> None:
    """Holds every tensor of an adapter against the model's layers.

    Raises:
        RosterError: names the file, the first tensor that does not fit, both shapes or the nearest module names, and
            how many more there are.
    """
    check_vocabulary(adapter, model)
    check_width(adapter, model)
    where = repr(str(adapter.path / WEIGHTS)) if adapter.path is not None else f"adapter {adapter.name!r}"
    known = dict(model.named_modules())
    if isinstance(model, peft.PeftModel) or any(isinstance(each, BaseTunerLayer) for each in known.values()):
        raise RosterError("this model carries PEFT adapters already: give the base alone (`PeftModel.unload()`)")
    problems = [p for name, update in adapter.modules.items() if (p := _problem(name, update, known)) is not None]
    if problems:
        made_for = adapter.config.base_model_name_or_path
        rest = f" ({len(problems) - 1} more of its {len(adapter.modules)} modules do not fit)" if problems[1:] else ""
        base = f"; it was made for {made_for!r}" if made_for else ""
        raise RosterError(f"{where}: {problems[0]}{rest}{base}")


def check_vocabulary(adapter: Adapter, model: nn.Module) -> None:
    """RosterError for an adapter that was trained on more tokens than the model has embeddings for.

    Of a base that was resized for new tokens an adapter's own tensors say nothing. What tells is beside them: the
    tokenizer, which PEFT and trainers write there, or the base that the config names, where that is a folder here.
    Where neither is, nobody can know.
    """
    embeddings = cast(Any, model).get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if embeddings is None:
        return
    last, told = max(_tokens_known(adapter), default=(-1, ""))
    if last >= embeddings.weight.shape[0]:
        raise RosterError(
            f"{str(adapter.path)!r} was trained with {told} that has a token {last}, but this base has embeddings "
            f"for {embeddings.weight.shape[0]} only: it was resized before the training; save that resized base "
            "(`model.get_base_model().save_pretrained(BASE)`, and its tokenizer) and use it"
        )


def check_width(adapter: Adapter, model: nn.Module) -> None:
    """RosterError for a soft prompt whose vectors are none of the model's embeddings."""
    if adapter.prompt_VD is None:
        return
    embeddings = cast(Any, model).get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    config = getattr(model, "config", None)
    if embeddings is None or getattr(config, "is_encoder_decoder", False) or not cast(Any, model).can_generate():
        raise RosterError(
            f"{adapter.name!r} is a soft prompt, which stands before the prompts of a causal language model; "
            f"{type(model).__name__} is none"
        )
    width = embeddings.weight.shape[1]
    if adapter.prompt_VD.shape[1] != width:
        raise RosterError(
            f"{adapter.name!r} is a soft prompt of width {adapter.prompt_VD.shape[1]}, and this model's embeddings "
            f"have {width}"
        )


def _tokens_known(adapter: Adapter) -> Iterator[tuple[int, str]]:
    """(the last token, of what) for everything beside an adapter's tensors that knows of tokens."""
    if adapter.path is not None:
        for name, ids_of in _TOKENIZER_FILES.items():
            try:
                yield max(ids_of(json.loads((adapter.path / name).read_text(encoding="utf-8")))), "a tokenizer"
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                continue  # a tokenizer is none of an adapter's business unless it can be read
    base = adapter.config.base_model_name_or_path
    config = Path(base) / "config.json" if base else None
    if config is not None and config.is_file():
        try:
            told = json.loads(config.read_text(encoding="utf-8"))
            yield int((told.get("text_config") or told)["vocab_size"]) - 1, f"the base {base!r}"
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return


# The ids of added tokens in the files of a tokenizer; the first is what transformers 5 writes, the others are older.
_TOKENIZER_FILES: dict[str, Callable[[Any], Iterable[int]]] = {
    "tokenizer.json": lambda told: [int(each["id"]) for each in told["added_tokens"]],
    "tokenizer_config.json": lambda told: [int(each) for each in told["added_tokens_decoder"]],
    "added_tokens.json": lambda told: [int(each) for each in told.values()],
}


def linear_size(module: nn.Module) -> tuple[int, int] | None:
    """(in_features, out_features) of a linear layer of any kind; None for what is none.

    GPT-2's `Conv1D` stores its weight the other way round; quantised layers keep their features as attributes. The
    output projection of `nn.MultiheadAttention` looks like a linear layer, but its forward is never called.
    """
    if isinstance(module, Conv1D):
        in_features, out_features = module.weight.shape
        return in_features, out_features
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return None
    for names in (("in_features", "out_features"), ("infeatures", "outfeatures")):  # the latter: older GPTQ layers
        inputs, outputs = (getattr(module, name, None) for name in names)
        if isinstance(inputs, int) and isinstance(outputs, int):
            return inputs, outputs
    return None


def _problem(name: str, update: LowRank, known: dict[str, nn.Module]) -> str | None:
    if name not in known:
        linears = [each for each, module in known.items() if linear_size(module) is not None]
        return f"tensor '{name}.lora_A.weight' has no module {name!r} in this model; {nearest(name, linears)}"
    size = linear_size(known[name])
    if size is None:
        return f"tensor '{name}.lora_A.weight' updates a {type(known[name]).__name__}, which is not a linear layer"
    if isinstance(update, Vector):
        wanted = [1, size[0]] if update.reads_input else [size[1], 1]
        found = len(update.vector_X)
        return (
            None
            if found == max(wanted)
            else f"tensor '{name}.ia3_l' has {found} numbers, but this model needs {wanted}"
        )
    R, (in_features, out_features) = update.A_RD.shape[0], size
    for factor, tensor, expected in (
        ("lora_A", update.A_RD, [R, in_features]),
        ("lora_B", update.B_OR, [out_features, R]),
    ):
        if list(tensor.shape) != expected:
            return f"tensor '{name}.{factor}.weight' is {list(tensor.shape)}, but this model needs {expected}"
    return None
