"""Recipes that decide by the prompt read no number off a device to know where they read."""

import torch

import tiny
from roster.adapters.attach import attach
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
