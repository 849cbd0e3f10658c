"""Tiny real models and libraries, built from configs: the ground that the tests stand on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer as Tokens
from tokenizers import decoders, models, pre_tokenizers
from torch import nn
from transformers.pytorch_utils import Conv1D

from roster.library import Card, Library, LowRank, make_adapter, read_adapter, write_adapter
from roster.library.gates import write_gates

VOCAB = 64
_SMALL = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# Every architecture that the documentation names, as (config class, its arguments, targets of the adapters).
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "llama": ("LlamaConfig", {**_SMALL, **_HEADS}, ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")),
    "qwen3": ("Qwen3Config", {**_SMALL, **_HEADS, "head_dim": 8}, ("q_proj", "k_proj", "down_proj")),
    "mistral": ("MistralConfig", {**_SMALL, **_HEADS, "sliding_window": 4}, ("q_proj", "v_proj", "gate_proj")),
    "gemma2": ("Gemma2Config", {**_SMALL, **_HEADS, "head_dim": 8, "sliding_window": 4}, ("q_proj", "o_proj")),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        ("c_attn", "c_proj", "c_fc"),
    ),
    "phi": ("PhiConfig", {**_SMALL, **_HEADS, "num_key_value_heads": 4}, ("q_proj", "dense", "fc1", "fc2")),
}


def base(architecture: str = "llama", seed: int = 0) -> Any:
    """A random causal LM of this architecture, evaluated in float32."""
    torch.manual_seed(seed)
    name, arguments, _ = ARCHITECTURES[architecture]
    config = getattr(transformers, name)(**arguments, **_IDS)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def encoder(seed: int = 0) -> Any:
    """A random BERT that fills gaps, evaluated in float32."""
    torch.manual_seed(seed)
    heads = {"num_attention_heads": 4, "max_position_embeddings": 64}
    config = transformers.BertConfig(**_SMALL, **heads, **_IDS, initializer_range=0.2)
    return transformers.BertForMaskedLM(config).eval()


def library(
    model: nn.Module,
    count: int = 4,
    *,
    targets: Sequence[str] = ARCHITECTURES["llama"][2],
    ranks: Sequence[int] | None = None,
    scales: Sequence[float] | None = None,
    folder: Path | None = None,
) -> Library:
    """Random experts with cards; on disk and with gate vectors when a folder is given."""
    generator = torch.Generator().manual_seed(7)
    adapters = {}
    for index in range(count):
        rank = ranks[index] if ranks else 4
        modules = {}
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, Conv1D)) and name.rsplit(".", 1)[-1] in targets:
                width, out = reversed(module.weight.shape) if isinstance(module, nn.Linear) else module.weight.shape
                A = torch.randn(rank, width, generator=generator) * width**-0.5
                B = torch.randn(out, rank, generator=generator) * 0.3
                modules[name] = LowRank(A, B, scales[index] if scales else 2.0)
        name = f"expert {index}"
        card = Card(task=f"task {index}", description="random", examples=[f"{index} {index}"], base="tiny/base")
        adapter = make_adapter(name, modules, base="tiny/base", card=card)
        if folder is not None:
            path = write_adapter(folder, adapter)
            gates = {key: torch.randn(u.A_RD.shape[1], generator=generator) for key, u in modules.items()}
            write_gates(path, gates)
            adapter = read_adapter(path)
        adapters[name] = adapter
    return Library(adapters)


class Tokenizer:
    """The least that lora-tle needs: a character is its code, modulo the vocabulary."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) % VOCAB for character in text]}

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(int(each)) for each in torch.as_tensor(ids).reshape(-1))


CHAT = (
    "{{ '<s>system: be kind<e>' }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<e>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
_LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())


def chat_tokenizer(template: str | None = CHAT) -> transformers.PreTrainedTokenizerFast:
    """A byte is a token; with a chat template that speaks first, as a system."""
    vocabulary = {letter: at for at, letter in enumerate(["<pad>", "<s>", "<e>", *_LETTERS])}
    inner = Tokens(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="<e>"
    )
    made.chat_template = template
    return made


def chat_base() -> Any:
    """A random Llama for that tokenizer."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(_LETTERS) + 3,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
        **_IDS,
    )
    return transformers.LlamaForCausalLM(config).eval()


def tokens(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    """Rows of random token ids that are neither padding nor the end."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (length,), generator=generator) for length in lengths]


def padded(rows: Sequence[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, attention_mask) of a batch, padded on one side."""
    S = max(len(row) for row in rows)
    ids, mask = torch.zeros(len(rows), S, dtype=torch.long), torch.zeros(len(rows), S, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(S - len(row), S)
        ids[index, where], mask[index, where] = row, 1
    return ids, mask
