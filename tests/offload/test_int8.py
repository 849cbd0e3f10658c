"""Experts held as 8-bit numbers: what a model with rounded experts answers, and how far that is from its own."""

import pytest
import torch

from offload.holding import budget, prompts, saved, whole
from roster.offload import load
from roster.offload.int8 import held_bytes, multiplied, numbers, quantise, restored


def rounded(weight):
    """By the definition, in float64 where it matters: s * round(w / s), s = max |w| / 127 of each row."""
    scale = weight.float().abs().amax(dim=-1, keepdim=True) / 127
    return ((weight.float() / scale).round() * scale).to(weight.dtype)


@torch.no_grad()
def with_rounded_experts(cls, folder, **kwargs):
    model = whole(cls, folder, **kwargs)
    for name, parameter in model.named_parameters():
        if ".experts." in name and parameter.dim() == 3:
            parameter.copy_(rounded(parameter))
    return model


@pytest.mark.parametrize("way", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_answers_are_those_of_rounded_experts(name, way, tmp_path):
    """Whether an expert is in a slot or streamed; matrices joined, stacked and turned around."""
    cls = saved(tmp_path, name)
    wanted = with_rounded_experts(cls, tmp_path, experts_implementation=way)(**prompts()).logits
    for experts in (2, 8):
        model = load(tmp_path, budget(tmp_path, experts, int8=True), int8=True, experts_implementation=way)
        with torch.no_grad():
            found = model(**prompts()).logits
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        model.offload.close()


def test_bfloat16_by_the_kernel_for_bytes(tmp_path):
    cls = saved(tmp_path, "mixtral", "bfloat16")
    exact, near = whole(cls, tmp_path), with_rounded_experts(cls, tmp_path)
    model = load(tmp_path, budget(tmp_path, 6, int8=True), int8=True)
    ids = prompts()["input_ids"][:1, -3:]
    with torch.no_grad():
        found, wanted, own = (each(ids).logits.float() for each in (model, near, exact))
    off = (wanted - own).abs().max()
    assert off > 0
    assert (found - wanted).abs().max() <= 2 * max(off, own.abs().max() / 128), "bfloat16's own rounding"
    model.offload.close()


def test_twice_as_many_experts_fit(tmp_path):
    saved(tmp_path, "mixtral", "bfloat16")
    room = budget(tmp_path, 6)
    slots = []
    for int8 in (False, True):
        model = load(tmp_path, room, int8=int8)
        slots.append(model.offload.run.residency.shares.total)
        model.offload.close()
    assert slots[0] == 6
    assert slots[1] >= 11, "a scale a row, and smaller buffers"


def test_rows_are_rounded_by_their_own_scale():
    torch.manual_seed(0)
    matrix = torch.randn(70, 48) * torch.logspace(-3, 2, 70)[:, None]
    matrix[3] = 0
    share = torch.zeros(held_bytes(70, 70 * 48), dtype=torch.uint8)
    q, s = numbers(share, (70, 48))
    quantise(matrix, q, s)
    back = restored(q, s, torch.float32)
    assert ((back - matrix).abs() <= s[:, None] / 2 * 1.001).all()
    assert (back[3] == 0).all()
    assert q.abs().amax(1)[4:].eq(127).all()
    rows = torch.randn(5, 48).bfloat16()
    torch.testing.assert_close(multiplied(rows, q, s).float(), rows.float() @ back.T, atol=0.05, rtol=0.02)
