"""A task's sub-network answers as the full mixture does, with fewer parameters."""

import pytest
import torch
import transformers

import roster
import tiny
from roster.errors import RosterError
from roster.experts import SwiGLU
from roster.moe.extract import as_plain, extract_task
from roster.moe.replacing import replace, routed_blocks

TASKS = ("red", "green", "blue")
BY_TASK = [
    ("task-moe", {}),
    ("task-moe", {"k": 4}),
    ("cross-task-moe", {}),
    ("uni-perceiver-moe", {}),
    ("direct-nmt-task-moe", {}),
]


def full_model(recipe, options=None):
    torch.manual_seed(4)
    return replace(tiny.base(), recipe, options=options, tasks=TASKS).eval()


@torch.no_grad()
def logits(model, ids, mask, **given):
    return model(input_ids=ids, attention_mask=mask, use_cache=False, **given).logits[mask.bool()]


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("recipe", "options"), BY_TASK)
@pytest.mark.parametrize("task", TASKS)
def test_sub_network_equals_the_full_model(recipe, options, task, tmp_path):
    model = full_model(recipe, options)
    ids, mask = tiny.padded(tiny.tokens(5, 3), "left")
    wanted = logits(model, ids, mask, task_ids=model.task_ids([task, task]))
    small = extract_task(model, task)
    assert size(small) < 0.7 * size(model)
    torch.testing.assert_close(logits(small, ids, mask), wanted, atol=1e-5, rtol=1e-5)
    plain = as_plain(small)
    assert type(plain) is transformers.LlamaForCausalLM
    plain.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, ids, mask), wanted, atol=1e-5, rtol=1e-5)
    # The full model is as it was.
    torch.testing.assert_close(logits(model, ids, mask, task_ids=model.task_ids([task, task])), wanted)


class OtherExperts(SwiGLU):
    """Of a kind that cannot be merged into one block."""


@pytest.mark.parametrize("task", TASKS)
def test_experts_that_do_not_merge_stay_a_mixture(task):
    model = full_model("task-moe")
    for block in routed_blocks(model).values():
        block.block.experts.__class__ = OtherExperts
    ids, mask = tiny.padded(tiny.tokens(5, 3), "right")
    small = extract_task(model, task)
    assert small.roster.experts == ("0", "1")
    wanted = logits(model, ids, mask, task_ids=model.task_ids([task, task]))
    torch.testing.assert_close(logits(small, ids, mask), wanted, atol=1e-5, rtol=1e-5)
    with roster.trace(small) as routes:
        logits(small, ids, mask)
    assert routes.sites == list(routed_blocks(model))


def test_sub_network_generates():
    small = extract_task(full_model("task-moe"), "green")
    ids, mask = tiny.padded(tiny.tokens(5, 3), "left")
    assert small.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False).shape == (2, 8)


@pytest.mark.parametrize(
    ("recipe", "task", "message"),
    [
        ("task-moe", "gren", "green"),
        ("task-aware-moe", "green", "TaskGate"),
        ("gshard-top2", "green", "does not route by task"),
    ],
)
def test_what_cannot_be_extracted_is_refused(recipe, task, message):
    with pytest.raises(RosterError, match=message):
        extract_task(full_model(recipe), task)


def test_a_mixture_is_not_plain():
    with pytest.raises(RosterError, match="all dense"):
        as_plain(full_model("task-moe"))
