"""Tiny mixtures of transformers, built from configs with random weights under which experts differ."""

from __future__ import annotations

from typing import Any

import torch
import transformers

import tiny

_SMALL = {
    **{"vocab_size": tiny.VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_experts_per_tok": 2},
}
_E = {"num_experts": 8}
_LOCAL = {"num_local_experts": 8}
_FINE = {**_E, "moe_intermediate_size": 24}
_GROUPS = {"n_group": 4, "topk_group": 2, "n_shared_experts": 1, "n_routed_experts": 8, "first_k_dense_replace": 0}
_MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
_DEEPSEEK = {**_GROUPS, **_MLA, "moe_intermediate_size": 24, "num_key_value_heads": 4}
_SWITCH = {
    **{"vocab_size": tiny.VOCAB, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 2},
    **{"num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 8},
    **{"expert_capacity": 64, "dropout_rate": 0.0, "router_jitter_noise": 0.0},
    **{"decoder_start_token_id": 0, "pad_token_id": 0},
}

# Config class without its ending, and what it is built with.
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {**_SMALL, **_LOCAL}),
    "qwen2_moe": ("Qwen2Moe", {**_SMALL, **_FINE, "shared_expert_intermediate_size": 24}),
    "qwen3_moe": ("Qwen3Moe", {**_SMALL, **_FINE, "head_dim": 8, "norm_topk_prob": False}),
    "olmoe": ("Olmoe", {**_SMALL, **_E}),
    "deepseek_v2": ("DeepseekV2", {**_SMALL, **_DEEPSEEK, "topk_method": "group_limited_greedy"}),
    "deepseek_v3": ("DeepseekV3", {**_SMALL, **_DEEPSEEK}),
    "gpt_oss": ("GptOss", {**_SMALL, **_LOCAL, "head_dim": 8}),
    "granitemoe": ("GraniteMoe", {**_SMALL, **_LOCAL}),
    "phimoe": ("Phimoe", {**_SMALL, **_LOCAL}),
    "glm4_moe": ("Glm4Moe", {**_SMALL, **_GROUPS, "moe_intermediate_size": 24, "head_dim": 8}),
    "switch": ("SwitchTransformers", _SWITCH),
}
CAUSAL = tuple(name for name in MIXTURES if name != "switch")


def mixture(name: str, seed: int = 0, **settings: Any) -> Any:
    """A random model, evaluated in float32."""
    prefix, arguments = MIXTURES[name]
    config = getattr(transformers, f"{prefix}Config")(**{**arguments, **settings})
    cls = getattr(transformers, f"{prefix}ForCausalLM", None) or getattr(
        transformers, f"{prefix}ForConditionalGeneration"
    )
    torch.manual_seed(seed)
    model = cls(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    for each, buffer in model.named_buffers():
        if "bias" in each:
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return model


def given(name: str, side: str = "right") -> dict[str, torch.Tensor]:
    """A padded batch with labels."""
    ids, mask = tiny.padded(tiny.tokens(7, 4, seed=1), side)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    if name == "switch":
        inputs["decoder_input_ids"] = ids
    return inputs
