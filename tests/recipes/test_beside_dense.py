"""Adapters beside and behind a dense block that stays: against torch's GRU, scikit-learn, and the equations."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import roster
import tiny
from roster import Context, RosterError, Route
from roster.balance import MutualInformation
from roster.moe.beside_dense import Behind, Rethinking
from roster.moe.replacing import replace
from roster.train import AtTestTime

IDS = torch.stack(tiny.tokens(6, 6, 6))
DOMAINS = ["fog", "rain", "night"]


def logits(model, **given):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False, **given).logits


def made(slug, start="dense", **options):
    torch.manual_seed(1)
    return replace(tiny.base(), slug, options=options, start=start, tasks=DOMAINS).eval()


def blocks(model):
    return [each for each in model.modules() if isinstance(each, (Rethinking, Behind))]


@pytest.mark.parametrize(("slug", "given"), [("graphmoe", {}), ("becotta", {"task_ids": torch.tensor([0, 1, 2])})])
def test_fresh_adapters_leave_the_model_as_it_was_and_alone_train(slug, given):
    model = made(slug)
    torch.testing.assert_close(logits(model, **given), logits(tiny.base()), atol=1e-5, rtol=1e-5)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert not any(".dense." in name or "self_attn" in name or "embed" in name for name in trained)
    whole = sum(p.numel() for p in model.parameters())
    if slug == "becotta":
        assert sum(p.numel() for n, p in model.named_parameters() if n in trained) < 0.6 * whole  # of a tiny model


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_are_their_equation(rounds):
    model = made("graphmoe", rounds=rounds, rank=3, alpha=6.0)
    block = blocks(model)[0]
    block.adapters.B_RO.data.normal_()
    gru = nn.GRU(32, 32)  # torch's own, over a sequence of one message at a time
    if rounds > 1:
        gru.load_state_dict({f"{name}_l0": tensor for name, tensor in block.cell.state_dict().items()})
    x_BSD = torch.randn(1, 5, 32)
    with torch.no_grad():
        found_TD = block(x_BSD, Context.of(x_BSD))[0]
        gate_DF, up_DF, down_FD = block.dense.gate_EDF[0], block.dense.up_EDF[0], block.dense.down_EFD[0]
        for x_D, found_D in zip(x_BSD[0], found_TD, strict=True):
            h_D = x_D
            for turn in range(rounds):
                best = (block.router.score.weight_ED @ h_D).topk(2)
                message_D = torch.zeros(32)
                for weight, expert in zip(best.values.softmax(0), best.indices.tolist(), strict=True):
                    A_rD, B_Dr, scale = block.adapters.expert(expert)
                    message_D = message_D + weight * scale * B_Dr @ (A_rD @ h_D)
                if turn < rounds - 1:
                    h_D = gru(message_D[None], h_D[None])[1][0]
            dense_D = (F.silu(x_D @ gate_DF) * (x_D @ up_DF)) @ down_FD
            torch.testing.assert_close(found_D, dense_D + message_D, atol=1e-4, rtol=1e-4)
    assert (block.cell is None) == (rounds == 1)


def test_rounds_can_be_traced_and_saved(tmp_path):
    model = made("graphmoe", start="fresh")
    for block in blocks(model):
        block.adapters.B_RO.data.normal_(std=0.1)
    with roster.trace(model) as routes:
        expected = logits(model)
    assert routes.gates(routes.sites[0]).shape[-1] == 4
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(roster.load(tmp_path / "saved")), expected)


def test_bottlenecks_behind_the_block_are_their_equation():
    model = made("becotta", num_experts=4, k=2, rank=3)
    block = blocks(model)[1]
    for parameter in block.adapters.parameters():
        parameter.data.normal_()
    x_BSD, domains = torch.randn(3, 5, 32), [2, 0, 1]
    mask_BS = torch.arange(5) < torch.tensor([[5], [3], [4]])
    with torch.no_grad():
        found_BSD = block(x_BSD, Context.of(x_BSD, task_ids_B=torch.tensor(domains), mask_BS=mask_BS))
        gate_DF, up_DF, down_FD = block.dense.gate_EDF[0], block.dense.up_EDF[0], block.dense.down_EFD[0]
        for x_SD, real_S, domain, found_SD in zip(x_BSD, mask_BS, domains, found_BSD, strict=True):
            f_SD = ((F.silu(x_SD @ gate_DF) * (x_SD @ up_DF)) @ down_FD)[real_S]
            best = (block.router.score.inner.inner.weight_NED[domain] @ f_SD.mean(0)).topk(2)
            expected_SD = f_SD
            for weight, expert in zip(best.values.softmax(0), best.indices.tolist(), strict=True):
                up, down = block.adapters.up_EDF[expert], block.adapters.down_EFD[expert]
                hidden = F.gelu(f_SD @ up + block.adapters.up_bias_EF[expert])
                expected_SD = expected_SD + weight * (hidden @ down + block.adapters.down_bias_ED[expert])
            torch.testing.assert_close(found_SD[real_S], expected_SD, atol=1e-4, rtol=1e-4)


def test_mutual_information_is_that_of_the_counts_and_it_trains():
    """Of one-hot scores it is that of scikit-learn, in nats; padding counts in none."""
    from sklearn.metrics import mutual_info_score

    domain_B = torch.tensor([0, 1, 2, 1, 0])
    expert_BS = torch.tensor([[0, 0, 1], [1, 1, 3], [2, 2, 2], [1, 0, 1], [0, 0, 0]])
    mask_BS = torch.ones(5, 3, dtype=torch.bool)
    mask_BS[3, 1] = mask_BS[0, 2] = False
    scores_TE = (F.one_hot(expert_BS.flatten(), 4).float() * 60).requires_grad_()
    route = Route.from_gates(scores_TE)
    route.scores_TE = scores_TE
    context = Context(5, 3, mask_BS=mask_BS, task_ids_B=domain_B)
    real_T = mask_BS.flatten()
    expected = mutual_info_score(domain_B.repeat_interleave(3)[real_T], expert_BS.flatten()[real_T])
    assert -float(MutualInformation(3, 1.0)(route, context).detach()) == pytest.approx(expected, abs=1e-5)
    soft_TE = torch.randn(15, 4, requires_grad=True)
    route.scores_TE = soft_TE
    before = MutualInformation(3, 1.0)(route, context)
    before.backward()
    assert not soft_TE.grad[~real_T].any()
    route.scores_TE = soft_TE.detach() - 5 * soft_TE.grad
    assert MutualInformation(3, 1.0)(route, context) < before
    with pytest.raises(RosterError, match="task of every row"):
        MutualInformation(3)(route, Context(5, 3))


class Classes(nn.Module):
    """A linear classifier that answers as a transformers model does."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x_ND):
        return SimpleNamespace(logits=self.linear(x_ND))


def test_at_test_time_only_confident_answers_count():
    """One step written out; examples that are not sure, or less sure than at first, change nothing."""
    torch.manual_seed(2)
    model = Classes()
    source = copy.deepcopy(model)
    source.linear.weight.data += torch.randn(3, 4) * 0.05  # surer of some, less of others
    x_ND = torch.randn(40, 4) * 4
    twin = copy.deepcopy(model)
    adapting = AtTestTime(model, source, rate=1e-2, threshold=0.8, restore=0.0)
    before = model(x_ND).logits.detach()
    assert torch.equal(adapting.step(x_ND=x_ND), before)
    sure = before.softmax(1).max(1).values
    counts = (sure > 0.8) & (sure >= source(x_ND).logits.softmax(1).max(1).values)
    assert 0 < counts.sum() < (sure > 0.8).sum()
    optimiser = torch.optim.Adam(twin.parameters(), lr=1e-2)
    F.cross_entropy(twin(x_ND[counts]).logits, before.argmax(1)[counts]).backward()
    optimiser.step()
    torch.testing.assert_close(model.linear.weight, twin.linear.weight, atol=1e-6, rtol=1e-5)
    untouched = model.linear.weight.clone()
    adapting.step(x_ND=torch.zeros(3, 4))
    adapting.step(x_ND=x_ND, mask=torch.zeros(40))
    assert torch.equal(model.linear.weight, untouched)


def test_at_test_time_some_weights_go_back():
    model = Classes()
    first = model.linear.weight.detach().clone()
    AtTestTime(model, rate=1e-2, threshold=0.0, restore=1.0).step(x_ND=torch.randn(8, 4))
    assert torch.equal(model.linear.weight, first)
    AtTestTime(model, rate=1e-2, threshold=0.0, restore=0.5).step(x_ND=torch.randn(8, 4))
    assert 0 < int((model.linear.weight == first).sum()) < 12
    with pytest.raises(RosterError, match="nothing of this model trains"):
        AtTestTime(model.requires_grad_(False))


@pytest.mark.parametrize(
    ("slug", "options"),
    [("graphmoe", {"rounds": 0}), ("graphmoe", {"k": 9}), ("becotta", {"rank": 0}), ("becotta", {"k": 7})],
)
def test_bad_options_are_refused(slug, options):
    with pytest.raises(RosterError, match="must be at least 1"):
        made(slug, **options)
