"""A gate over prompts, worked out by hand."""

import pytest
import torch

from roster import RosterError
from roster.adapters.prompt_gate import PromptGate

D, E = 6, 3


@pytest.mark.parametrize("hidden", [0, 4])
def test_the_gate_is_a_softmax_of_a_linear_map_of_what_it_reads(hidden):
    torch.manual_seed(0)
    gate = PromptGate(D, E, depth=2, hidden=hidden)
    x_BD = torch.randn(5, D)
    read_BF = (x_BD - x_BD.mean(1, keepdim=True)) / (x_BD.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    if hidden:
        read_BF = (read_BF @ gate.reads[0].weight.T + gate.reads[0].bias).clamp_min(0)
    assert gate.weight_EF.shape == (E, hidden or D)
    assert not list(gate.norm.parameters())
    index_BE, weight_BE = gate(x_BD).unbind(1)
    torch.testing.assert_close(weight_BE, (read_BF @ gate.weight_EF.T).softmax(1))
    assert index_BE.tolist() == [[0, 1, 2]] * 5


def test_weights_of_any_size_start_where_they_are_told_to():
    gate = PromptGate(D, E, depth=2, gate="none", start=0.25)
    gate.weight_EF.data.zero_()
    assert gate(torch.randn(2, D))[:, 1].tolist() == [[0.25] * E] * 2


def test_which_block_is_read():
    assert PromptGate(D, E, depth=4).blocks == (4,)
    assert PromptGate(D, E, depth=4, layer=2).blocks == (2,)
    for layer in (0, 5):
        with pytest.raises(RosterError, match=f"layer={layer}, but the base has blocks 1 to 4"):
            PromptGate(D, E, depth=4, layer=layer)
