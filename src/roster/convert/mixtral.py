"""The container: a mixture of gated experts as Mixtral has it, in the names of its published checkpoints.

Mixtral chooses the k best scores and takes a softmax over the chosen, so that weights sum to 1 and equal experts are
the dense block again, whoever is chosen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from roster.convert.dense import Dense
from roster.errors import RosterError
from roster.merge.side_files import model_files

BALANCE = 0.01
_NAMES = {"gate": "w1", "down": "w2", "up": "w3"}
_KEPT = (
    "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act", "hidden_size", "initializer_range",
    "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id",
    "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "tie_word_embeddings", "dtype",
    "torch_dtype", "use_cache", "vocab_size",
)  # fmt: skip


def expert_name(layer: int, expert: int, part: str) -> str:
    """Of an expert's matrix."""
    return f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{_NAMES[part]}.weight"


def router_name(layer: int) -> str:
    """Of a layer's router, [experts, hidden size]."""
    return f"model.layers.{layer}.block_sparse_moe.gate.weight"


def side_files(dense: Dense, experts: int, top_k: int, width: int) -> dict[str, bytes | Path]:
    """Config, tokenizer and generation settings of the mixture.

    Args:
        dense: the model it is made of.
        experts: how many a layer has.
        top_k: how many a token gets.
        width: hidden units of an expert.

    Raises:
        RosterError: numbers of experts that cannot be.
    """
    if experts < 1 or not 1 <= top_k <= experts:
        raise RosterError(f"{top_k} of {experts} experts a token: it must be from 1 to their number")
    config: dict[str, Any] = {name: dense.config[name] for name in _KEPT if name in dense.config}
    config |= {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "intermediate_size": width,
        "num_local_experts": experts,
        "num_experts_per_tok": top_k,
        "output_router_logits": False,
        "router_aux_loss_coef": BALANCE,
    }
    files = model_files(dense.source.folder)
    files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    return files
