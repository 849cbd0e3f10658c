"""Recipes that decide by the prompt read no number off a device to know where they read."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tiny
from roster.adapters.attach import attach
from roster.adapters.nearness import Nearness
from roster.adapters.reading import load_router
from roster.auto.judge import Judge
from roster.auto.retrieving import Retriever
from roster.recipes import RECIPES
from roster.recipes.logo import Signals


def test_logo_knows_its_block_from_a_folder_or_a_state(tmp_path):
    plain = tiny.base()
    model = attach(plain, tiny.library(plain), RECIPES["logo"](), recipe="logo").eval()
    assert model.roster.head.blocks == (1,)
    other = Signals(4, 2, "norm")
    other.register_buffer("A_ERI", torch.zeros_like(model.roster.head.A_ERI))
    other.register_buffer("B_EOR", torch.zeros_like(model.roster.head.B_EOR))
    other.load_state_dict(model.roster.head.state_dict())
    assert other.blocks == (1,)
    assert all(isinstance(block, int) for block in other.blocks)


def test_a_prompt_is_read_behind_the_block_that_a_state_names():
    """With values that a device would have to be waited for: `blocks` are numbers of Python's beside the tensor."""
    read = Nearness(8, "experts", "cosine")
    assert read.blocks == (1,)
    read.load_state_dict(read.state_dict() | {"block_1": torch.tensor([5])})
    assert read.blocks == (5,)
    read.to("meta")
    assert read.blocks == (5,)


@pytest.mark.parametrize("part", [Nearness(8, "experts", "cosine"), Retriever(2, 1, None), Signals(2, 1, "norm")])
def test_a_saved_folder_keeps_which_block_is_read(part, tmp_path):
    """Its tensors are filled one by one, not by `load_state_dict`."""
    part.read_behind(5)
    model = nn.ModuleDict({"roster": nn.ModuleDict({"head": part})})
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, tmp_path / "router.safetensors")
    part.read_behind(1)
    load_router(model, tmp_path)
    assert part.blocks == (5,)


def test_a_saved_judge_reads_where_it_was_fitted(tmp_path):
    saved, loaded = Judge(2), Judge(2)
    saved.learn(replace(saved.knowledge, place_2=torch.tensor([5, 2]), limits_4=torch.tensor([1.0, 0.0, 0.0, 0.3])))
    state = nn.ModuleDict({"roster": nn.ModuleDict({"head": saved})}).state_dict()
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "router.safetensors")
    load_router(nn.ModuleDict({"roster": nn.ModuleDict({"head": loaded})}), tmp_path)
    assert (loaded.blocks, loaded.pooling, loaded.mixes) == ((5,), "tail", True)
