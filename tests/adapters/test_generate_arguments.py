"""What `generate` is told is checked before it runs, and what it remembers lasts exactly as long as it does."""

import pytest
import torch
from transformers import DynamicCache

import tiny
from roster.adapters.attach import attach
from roster.errors import RosterError
from roster.recipes import find
from roster.routed.generation import Generation
from roster.routed.history import history_of

IDS, _ = tiny.padded(tiny.tokens(5, 5, 5, 5), "left")


def routed(slug):
    base = tiny.base()
    return attach(base, tiny.library(base), find(slug)(), recipe=slug, tokenizer=tiny.Tokenizer()).eval()


@pytest.mark.parametrize("inputs", [{"input_ids": IDS}, {"inputs": IDS}, {"inputs_embeds": None}])
def test_there_is_one_task_and_one_mask_a_row(inputs):
    model = routed("named")
    if "inputs_embeds" in inputs:
        inputs = {"inputs_embeds": torch.zeros(4, 5, model.config.hidden_size)}
    with pytest.raises(RosterError, match="2 tasks for 4 prompts"):
        model.generate(**inputs, tasks=[None, None], max_new_tokens=1)
    with pytest.raises(RosterError, match="they must be alike"):
        model.generate(**inputs, prompt_mask=torch.ones(4, 6, dtype=torch.bool), max_new_tokens=1)


def test_a_prompt_in_pieces_is_refused_wherever_it_is_asked_for():
    model = routed("milora-prompt-routed")
    with pytest.raises(RosterError, match="prefill_chunk_size"):
        model.generate(IDS, max_new_tokens=1, prefill_chunk_size=2)
    model.generation_config.prefill_chunk_size = 2
    with pytest.raises(RosterError, match="prefill_chunk_size"):
        model.generate(IDS, max_new_tokens=1)


def test_one_history_a_cache():
    cache = DynamicCache()
    assert history_of(cache, 2, False) is history_of(cache, 2, False)


def test_a_generation_within_another_starts_with_nothing_decided():
    running = Generation()
    with running.of((IDS,), {}):
        running.decision_B2K, running.duty = torch.ones(4, 2, 1), (3,)
        with running.of((IDS,), {}):
            assert running.decision_of(4) is None
            assert running.duty is None
        assert running.duty == (3,)
        assert torch.equal(running.decision_of(8), torch.ones(8, 2, 1))
    assert running.decision_of(4) is None


def test_the_prompt_stays_the_prompt_while_the_answer_grows():
    running, mask = Generation(), torch.tensor([[True, True, False]])
    with running.of((torch.tensor([[1, 2, 3]]),), {"prompt_mask": mask}):
        given = running.inputs(torch.tensor([[1, 2, 3, 4, 5]]), batch=1, length=5)
        assert given["prompt_mask"].tolist() == [[True, True, False, False, False]]
        given = running.inputs(torch.tensor([[1, 2, 3, 4, 5]]), batch=2, length=1)
        assert given["prompt_mask"].tolist() == [[False], [False]]
    with running.of((), {"inputs_embeds": torch.zeros(1, 3, 8), "prompt_mask": mask}):
        given = running.inputs(torch.tensor([[4]]), batch=1, length=4)
        assert given["prompt_mask"].tolist() == [[True, True, False, False]]


def test_a_row_without_a_prompt_is_refused():
    model, labels = routed("milora-prompt-routed"), IDS.clone()
    labels[[0, 1, 3], :2] = -100
    with pytest.raises(RosterError, match="every token of row 2 has a label"):
        model(input_ids=IDS, labels=labels)
