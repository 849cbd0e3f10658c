"""Blocks of transformers and the same blocks made of roster's parts: outputs, gradients and router losses.

Shape legend: B batch rows, S tokens, D model width, E experts.
"""

import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func as mixtral_loss
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func as olmoe_loss
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func as qwen3_loss
from transformers.models.switch_transformers.modeling_switch_transformers import (
    load_balancing_loss_func as switch_loss,
)
from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

from moe.mixtures import mixture
from roster.balance import LoadBalancing, ZLoss
from roster.context import Context
from roster.errors import RosterError
from roster.moe.adopting import find_experts
from roster.moe.gates import gate_of
from roster.moe.layer import MoE
from roster.moe.parts import parts_of

BLOCKS = ("mixtral", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss", "granitemoe", "glm4_moe", "switch")
AUXILIARY = {"mixtral": mixtral_loss, "qwen3_moe": qwen3_loss, "olmoe": olmoe_loss}
CLOSE = {"atol": 2e-6, "rtol": 2e-5}  # float32 round-off


def block_of(name):
    return next(iter(find_experts(mixture(name)).values()))


def hidden(seed=3):
    return torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def routed_part(made):
    return next(each for each in made.modules() if isinstance(each, MoE))


def gradients_of_experts(experts):
    """[E, ...] of transformers' tensors in roster's orientation, all first matrices side by side."""
    if hasattr(experts, "expert_0"):
        each = [experts[f"expert_{index}"] for index in range(experts.num_experts)]
        # An expert that no token visited has no gradient at all.
        pairs = [[torch.zeros_like(w) if w.grad is None else w.grad for w in (e.wi.weight, e.wo.weight)] for e in each]
        return torch.stack([first.T for first, _ in pairs]), torch.stack([down.T for _, down in pairs])
    first, down = experts.gate_up_proj.grad, experts.down_proj.grad
    first, down = (first, down) if experts.is_transposed else (first.mT, down.mT)
    if not experts.is_concatenated:
        first = torch.cat([first[..., ::2], first[..., 1::2]], dim=-1)
    return first, down


@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_and_gradients_are_equal(name):
    block = block_of(name)
    made = parts_of(block)
    theirs_x, ours_x = hidden(), hidden()
    theirs = block(theirs_x)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    ours = made(ours_x, Context(2, 9))
    torch.testing.assert_close(ours, theirs, **CLOSE)
    weight = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(4))
    (theirs * weight).sum().backward()
    (ours * weight).sum().backward()
    torch.testing.assert_close(ours_x.grad, theirs_x.grad, atol=2e-5, rtol=2e-5)
    part = routed_part(made)
    firsts = [getattr(part.experts, each).grad for each in ("gate_EDF", "up_EDF") if hasattr(part.experts, each)]
    first, down = gradients_of_experts(block.experts)
    torch.testing.assert_close(torch.cat(firsts, dim=2), first, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(part.experts.down_EFD.grad, down, atol=2e-5, rtol=2e-5)
    gate = gate_of(block)
    linear = getattr(gate, "classifier", gate)
    score = getattr(part.router.score, "inner", part.router.score)
    assert linear.weight.grad.abs().sum() > 0
    torch.testing.assert_close(score.weight_ED.grad, linear.weight.grad, atol=2e-5, rtol=2e-5)
    if getattr(linear, "bias", None) is not None:
        torch.testing.assert_close(part.router.score.offset_E.grad, linear.bias.grad, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", AUXILIARY)
@pytest.mark.parametrize("padded", [False, True])
def test_auxiliary_losses_are_equal(name, padded):
    block = block_of(name)
    part = routed_part(parts_of(block))
    x_TD = hidden().detach().view(18, 32)
    mask = torch.ones(2, 9, dtype=torch.long)
    if padded:
        mask[1, 5:] = 0
    logits_TE, *_ = gate_of(block)(x_TD)
    k = part.router.select.k
    theirs = AUXILIARY[name]((logits_TE,), logits_TE.shape[1], k, mask if padded else None)
    part.router.balance.append(LoadBalancing(1.0))
    context = Context(2, 9, mask_BS=mask.bool() if padded else None)
    part.router(x_TD, context)
    (ours,) = context.losses.values()
    torch.testing.assert_close(ours, theirs, **CLOSE)
    theirs.backward()
    ours.backward()
    torch.testing.assert_close(part.router.score.weight_ED.grad, gate_of(block).weight.grad, **CLOSE)


def test_losses_of_switch_are_equal():
    block = block_of("switch")
    x_BSD = hidden().detach()
    _, _, logits = block.router(x_BSD)
    index = logits.argmax(-1)
    theirs = switch_loss(logits.softmax(-1), index), router_z_loss_func(logits)
    for loss, part in zip(theirs, (LoadBalancing(1.0), ZLoss(1.0)), strict=True):
        router = routed_part(parts_of(block)).router
        router.balance.append(part)
        # transformers takes the loss of every row by itself and then the mean.
        ours = []
        for row in x_BSD:
            context = Context(1, 9)
            router(row, context)
            ours += context.losses.values()
        ours = torch.stack(ours).mean()
        torch.testing.assert_close(ours, loss, **CLOSE)
        block.zero_grad()
        loss.backward(retain_graph=True)
        ours.backward()
        torch.testing.assert_close(router.score.weight_ED.grad, block.router.classifier.weight.grad, **CLOSE)


def test_what_is_more_than_parts_is_refused():
    """Qwen2-MoE weighs its shared expert, PhiMoE draws by a rule of its own: neither is taken for something else."""
    with pytest.raises(RosterError, match="shared experts"):
        parts_of(block_of("qwen2_moe"))
    with pytest.raises(RosterError, match=r"not a composition .* TopK and GroupedTopK"):
        parts_of(block_of("phimoe"))
