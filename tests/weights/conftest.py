"""Small checkpoints on disk."""

import json
import zlib

import pytest
import torch
from safetensors.torch import save_file


def shapes(layers=3, width=40, vocabulary=64):
    """Of a small Llama-like model; one tensor is larger than a piece, so that pieces are cut within it."""
    found = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for layer in range(layers):
        found[f"model.layers.{layer}.mlp.up_proj.weight"] = (2 * width, width)
        found[f"model.layers.{layer}.input_layernorm.weight"] = (width,)
    found["model.layers.0.mlp.down_proj.weight"] = (421, 701)
    return found


def tensors(name, dtype=torch.float32, near=None, **kwargs):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    made = {}
    for key, shape in shapes(**kwargs).items():
        value = torch.randn(shape, generator=generator)
        made[key] = (value if near is None else near[key].float() + 0.1 * value).to(dtype)
    return made


@pytest.fixture
def models(tmp_path):
    """A base `b` and three models `m0`, `m1`, `m2` made of it; tensors and folders by name."""

    def make(dtype=torch.float32, **kwargs):
        found = {"b": tensors("b", dtype, **kwargs)}
        found |= {f"m{i}": tensors(f"m{i}", dtype, found["b"], **kwargs) for i in range(3)}
        for name, values in found.items():
            write(tmp_path / name, values)
        return found

    return make


def write(folder, values, **config):
    folder.mkdir(exist_ok=True)
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 3, **config}), encoding="utf-8")
    return folder
