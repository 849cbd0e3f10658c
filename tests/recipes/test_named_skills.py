"""Experts that people name, and adapters beside experts that exist: against transformers and the equations."""

import copy

import pytest
import torch

import roster
import tiny
from moe.mixtures import mixture
from roster import RosterError
from roster.experts import LowRankExperts
from roster.moe.adopting import adopt, adopted_sites
from roster.moe.beside_experts import BesideExperts
from roster.moe.extract import as_plain, extract_task
from roster.moe.replacing import replace, routed_blocks

IDS = torch.stack(tiny.tokens(6, 6, 6))
SKILLS = {"ask": ["general", "short"], "tell": ["general", "long", "open"], "sum": ["general", "short", "long"]}


def logits(model, ids=IDS, **given):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **given).logits


def skillnet(start="fresh", **options):
    torch.manual_seed(1)
    return replace(tiny.base(), "skillnet-nlg", options=options, tasks=list(SKILLS), start=start).eval()


def test_copies_of_a_dense_block_leave_the_model_as_it_was():
    model = skillnet("dense", skills=SKILLS)
    task_ids = torch.tensor([0, 1, 2])
    torch.testing.assert_close(logits(model, task_ids=task_ids), logits(tiny.base()), atol=1e-5, rtol=1e-5)


def test_a_tasks_skills_are_averaged_and_nothing_else_runs():
    model = skillnet(skills=SKILLS)
    block = next(iter(routed_blocks(model).values())).block
    x_BSD = torch.randn(3, 2, 32)
    context = roster.Context.of(x_BSD, task_ids_B=torch.tensor([0, 1, -1]))
    order = ["general", "short", "long", "open"]
    with torch.no_grad():
        found = block(x_BSD, context)
        for row, names in enumerate([SKILLS["ask"], SKILLS["tell"], ["general"]]):
            outputs = []
            for name in names:
                e = order.index(name)
                up, gate = x_BSD[row] @ block.experts.up_EDF[e], x_BSD[row] @ block.experts.gate_EDF[e]
                outputs.append((torch.nn.functional.silu(gate) * up) @ block.experts.down_EFD[e])
            torch.testing.assert_close(found[row], torch.stack(outputs).mean(0), atol=1e-5, rtol=1e-5)
    # The skills of other tasks may hold anything.
    before = logits(model, task_ids=torch.tensor([0, 0, 0]))
    for each in routed_blocks(model).values():
        each.block.experts.down_EFD.data[2:] = torch.nan
    assert torch.equal(logits(model, task_ids=torch.tensor([0, 0, 0])), before)


@pytest.mark.parametrize("task", list(SKILLS))
def test_a_tasks_skills_are_one_dense_model(task):
    """Of transformers' own class; tasks of as many skills have models of one width."""
    model = skillnet(skills=SKILLS)
    plain = as_plain(extract_task(model, task))
    assert type(plain) is type(tiny.base())
    assert plain.config.intermediate_size == 48 * len(SKILLS[task])
    expected = logits(model, task_ids=model.task_ids([task] * 3))
    torch.testing.assert_close(logits(plain), expected, atol=1e-5, rtol=1e-5)


def test_a_task_without_skills_is_refused():
    with pytest.raises(RosterError, match="names none for the task 'sum'"):
        skillnet(skills={task: SKILLS[task] for task in ("ask", "tell")})


def perft(name="mixtral", **options):
    torch.manual_seed(1)
    return adopt(mixture(name), "perft", options=options).eval()


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
@pytest.mark.parametrize("form", ["routed", "embedded", "dense", "shared"])
def test_fresh_adapters_leave_a_mixture_of_transformers_as_it_was(name, form):
    """Its own router decides as before, and its experts are its own tensors."""
    plain = mixture(name)
    model = perft(name, form=form)
    torch.testing.assert_close(logits(model), logits(plain), atol=1e-5, rtol=1e-4)
    adapters = [each for each in model.modules() if isinstance(each, BesideExperts)]
    assert len(adapters) == 2
    assert {each.adapters.num_experts for each in adapters} == {{"embedded": 8, "shared": 1}.get(form, 4)}


@pytest.mark.parametrize("form", ["routed", "embedded", "dense", "shared"])
def test_only_adapters_and_their_router_train(form):
    model = perft(form=form).train()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    ends = {name.rsplit(".", 1)[-1] for name in trained}
    assert ends == {"A_RI", "B_RO"} | ({"weight_ED"} if form == "routed" else set())
    assert all(".adapters." in name or ".own." in name for name in trained)
    for name, parameter in model.named_parameters():
        if name.endswith("B_RO"):
            parameter.data.normal_()
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if n in trained)


@pytest.mark.parametrize("form", ["routed", "embedded", "dense", "shared"])
def test_adapters_beside_experts_are_their_equation(form):
    model = perft(form=form, active=2, rank=3, alpha=6.0)
    site = next(iter(adopted_sites(model).values()))
    block, x_BSD = site.block, torch.randn(1, 5, 32)
    block.adapters.B_RO.data.normal_()
    context = roster.Context.of(x_BSD)
    with torch.no_grad():
        route = block.router(x_BSD[0], context)
        mixed_TD = route.through(block.experts, x_BSD[0])
        found_TD = block(x_BSD, context)[0]
        for t, x_D in enumerate(x_BSD[0]):
            if form == "routed":
                p = block.own.score.weight_ED @ x_D
                best = p.topk(2)
                weight = torch.zeros(4).scatter(0, best.indices, best.values.softmax(0))
            elif form == "embedded":
                weight = route.dense()[t]
            else:
                weight = torch.ones(4 if form == "dense" else 1)
            expected = mixed_TD[t]
            for j, w in enumerate(weight):
                A_rI, B_Or, scale = block.adapters.expert(j)
                assert scale == 2.0
                expected = expected + w * scale * B_Or @ (A_rI @ x_D)
            torch.testing.assert_close(found_TD[t], expected, atol=1e-4, rtol=1e-4)


def test_trained_adapters_are_saved_and_routes_are_traced(tmp_path):
    model = perft()
    for each in model.modules():
        if isinstance(each, LowRankExperts):
            each.B_RO.data.normal_(std=0.1)
    with roster.trace(model) as routes:
        expected = logits(model)
    assert routes.gates(routes.sites[0]).shape[-1] == 8
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(roster.load(tmp_path / "saved")), expected)
    assert not torch.equal(logits(mixture("mixtral")), expected)


def test_a_router_that_roster_has_no_parts_for_is_told():
    with pytest.raises(RosterError, match="is not a composition of roster's parts"):
        adopt(mixture("phimoe"), "perft")


def test_a_copy_stays_frozen_where_it_was():
    """A deep copy keeps what trains and what does not."""
    model = copy.deepcopy(perft())
    assert {n.rsplit(".", 1)[-1] for n, p in model.named_parameters() if p.requires_grad} == {
        "A_RI",
        "B_RO",
        "weight_ED",
    }
