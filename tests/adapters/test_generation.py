"""transformers' own `generate` on routed models: every mode and cache equals the full forward, recomputed step by step.

Shape legend: B batch rows, S prompt tokens, N new tokens, V vocabulary.
"""

import functools

import pytest
import torch
import transformers

import roster
import roster.routed.base
import tiny
from roster.adapters.attach import attach
from roster.adapters.site import routed_linears
from roster.recipes import RECIPES

NEW = 6
ATOL = 1e-4
each_architecture = pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
REMEMBERS = ("x-lora", "lora-tle", "milora-prompt-routed", "smear")
each_with_memory = pytest.mark.parametrize("slug", REMEMBERS)


@functools.cache
def routed(slug, architecture="llama"):
    """A routed model with random routers that never ends a text, so that lengths are known."""
    model = tiny.base(architecture)
    library = tiny.library(model, targets=tiny.ARCHITECTURES[architecture][2])
    model = attach(model, library, RECIPES[slug](), recipe=slug, tokenizer=tiny.Tokenizer()).eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    model.generation_config.eos_token_id = None
    return model


def prompts(side="left"):
    ids, mask = tiny.padded(tiny.tokens(7, 4, 5, seed=1), side)
    return {"input_ids": ids, "attention_mask": mask}


def one_prompt():
    ids = torch.tensor([[5, 9, 11, 7, 5, 9, 11, 7, 5, 9]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def generate(model, given, **options):
    """(all ids, logits [B, N, V])"""
    out = model.generate(
        **given, max_new_tokens=NEW, output_logits=True, return_dict_in_generate=True, **{"do_sample": False, **options}
    )
    return out.sequences, torch.stack(out.logits, dim=1) if out.logits is not None else None


def full_logits(model, ids, mask, prompt_length):
    """One pass without a cache."""
    prompt_mask = torch.zeros_like(mask, dtype=torch.bool)
    prompt_mask[:, :prompt_length] = True
    given = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp_min(0), "prompt_mask": prompt_mask}
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **given).logits


def recompute(model, given):
    """Greedy decoding by full passes: (all ids, logits [B, N, V])."""
    ids, mask = given["input_ids"], given["attention_mask"]
    S, steps = ids.shape[1], []
    for _ in range(NEW):
        steps.append(full_logits(model, ids, mask, S)[:, -1])
        ids = torch.cat([ids, steps[-1].argmax(-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return ids, torch.stack(steps, dim=1)


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], atol=ATOL, rtol=1e-4)


@each_architecture
def test_the_experts_change_the_answer(architecture):
    plain, given = tiny.base(architecture), prompts()
    model = routed("arrow-mbc", architecture)
    with torch.no_grad():
        difference = model(**given).logits - plain(**given).logits
    assert difference[given["attention_mask"].bool()].abs().amax(-1).min() > 0.01
    with roster.trace(model) as routes, torch.no_grad():
        model(**given)
    assert len(routes.sites) == len(list(routed_linears(model)))


@each_architecture
@pytest.mark.parametrize("cache", [None, "static"])
def test_greedy(architecture, cache):
    """A left-padded batch."""
    model, given = routed("arrow-mbc", architecture), prompts()
    assert_same(generate(model, given, cache_implementation=cache), recompute(model, given))


@each_architecture
def test_static_cache_without_padding(architecture):
    """transformers then drops the mask and makes one of four dimensions by itself."""
    model, given = routed("arrow-mbc", architecture), one_prompt()
    assert_same(generate(model, given, cache_implementation="static"), recompute(model, given))


@each_architecture
def test_a_padded_row_is_the_row_alone(architecture):
    model, given = routed("arrow-mbc", architecture), prompts()
    together, _ = generate(model, given)
    for row, real in enumerate(given["attention_mask"].bool()):
        alone, _ = generate(model, {"input_ids": given["input_ids"][row : row + 1, real]})
        assert torch.equal(together[row, real.numel() :], alone[0, int(real.sum()) :])


@each_architecture
def test_sampling(architecture):
    """The seed alone decides, and the cache does not."""
    model, given = routed("arrow-mbc", architecture), prompts()
    runs = []
    for options in ({}, {}, {"use_cache": False}, {"cache_implementation": "static"}):
        torch.manual_seed(11)
        runs.append(generate(model, given, do_sample=True, temperature=1.5, **options))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert_same(runs[2], runs[0])
    assert_same(runs[3], runs[0])
    torch.manual_seed(12)
    assert not torch.equal(generate(model, given, do_sample=True, temperature=1.5)[0], runs[0][0])


def beams(model, given, **options):
    return model.generate(
        **given,
        max_new_tokens=NEW,
        num_beams=3,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )


@each_architecture
def test_beam_search(architecture):
    model, given = routed("arrow-mbc", architecture), prompts()
    expected = beams(model, given, use_cache=False)
    for options in ({}, {"cache_implementation": "static"}):
        found = beams(model, given, **options)
        assert torch.equal(found.sequences, expected.sequences)
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=ATOL, rtol=1e-4)


def assistants(plain):
    yield {"assistant_model": plain}
    yield {"prompt_lookup_num_tokens": 3}


@each_architecture
def test_assisted(architecture):
    """Rejected drafts are cropped from every cache again."""
    plain, model, given = tiny.base(architecture), routed("arrow-mbc", architecture), one_prompt()
    plain.generation_config.eos_token_id = None
    expected = recompute(model, given)
    for options in assistants(plain):
        assert_same(generate(model, given, **options), expected)


@each_with_memory
@pytest.mark.parametrize("cache", [None, "static"])
def test_greedy_with_memory(slug, cache):
    model, given = routed(slug), prompts()
    assert_same(generate(model, given, cache_implementation=cache), recompute(model, given))


@each_with_memory
def test_without_cache(slug):
    """The prompt stays the prompt when every call sees the whole text again."""
    model, given = routed(slug), prompts()
    assert_same(generate(model, given, use_cache=False), recompute(model, given))


@pytest.mark.parametrize("slug", ["arrow-mbc", *REMEMBERS])
def test_a_prompt_in_chunks(slug):
    """The same where each token only looks back; refused where the whole prompt decides."""
    model, given = routed(slug), prompts()
    if slug in ("milora-prompt-routed", "smear"):
        with pytest.raises(roster.RosterError, match="prefill_chunk_size"):
            generate(model, given, prefill_chunk_size=3)
    else:
        assert_same(generate(model, given, prefill_chunk_size=3), recompute(model, given))


@pytest.mark.parametrize("slug", ["arrow-mbc", *REMEMBERS])
def test_from_embeddings(slug):
    model, given = routed(slug), prompts()
    embeds = model.get_input_embeddings()(given["input_ids"]).detach()
    ids, logits = generate(model, {"inputs_embeds": embeds, "attention_mask": given["attention_mask"]})
    expected = recompute(model, given)
    assert_same((ids, logits), (expected[0][:, -NEW:], expected[1]))


@pytest.mark.parametrize("slug", ["milora-prompt-routed", "smear"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_given_prompt_mask(slug, use_cache):
    """The caller may say that only the first part of what is given is the prompt."""
    model, given = routed(slug), one_prompt()
    prompt_mask = torch.arange(10)[None] < 4
    _, found = generate(model, {**given, "prompt_mask": prompt_mask}, use_cache=use_cache)
    expected = full_logits(model, given["input_ids"], given["attention_mask"], 4)[:, -1]
    torch.testing.assert_close(found[:, 0], expected, atol=ATOL, rtol=1e-4)
    assert (full_logits(model, given["input_ids"], given["attention_mask"], 10)[:, -1] - expected).abs().max() > 1e-3


@each_with_memory
def test_memory_matters(slug):
    """The prompt's route is not the route of the whole text: otherwise the tests above would prove nothing."""
    model, given = routed(slug), prompts()
    sequences, _ = generate(model, given)
    mask = torch.cat([given["attention_mask"], torch.ones(3, NEW, dtype=torch.long)], dim=1)
    as_prompt, whole = (full_logits(model, sequences, mask, length) for length in (7, 7 + NEW))
    pools_the_prompt = slug in ("milora-prompt-routed", "smear")
    assert bool((as_prompt[:, -1] - whole[:, -1]).abs().max() > 0.01) == pools_the_prompt


@each_with_memory
@pytest.mark.parametrize("cache", [None, "static"])
def test_beam_search_with_memory(slug, cache):
    """The score of each winning beam is the log-probability that a full pass gives it."""
    model, given = routed(slug), prompts()
    found = beams(model, given, cache_implementation=cache, length_penalty=1.0)
    mask = torch.cat([given["attention_mask"], torch.ones(3, NEW, dtype=torch.long)], dim=1)
    log_probs = full_logits(model, found.sequences, mask, 7)[:, 6:-1].log_softmax(-1)
    chosen = log_probs.gather(-1, found.sequences[:, 7:, None])[..., 0]
    torch.testing.assert_close(found.sequences_scores, chosen.mean(1), atol=ATOL, rtol=1e-4)
    assert (found.beam_indices[:, :NEW].diff(dim=1) != 0).any(), "no beam was reordered"


@each_with_memory
def test_assisted_with_memory(slug):
    plain, model, given = tiny.base(), routed(slug), one_prompt()
    plain.generation_config.eos_token_id = None
    expected = recompute(model, given)
    for options in assistants(plain):
        assert_same(generate(model, given, **options), expected)


@each_with_memory
def test_sampling_with_memory(slug):
    model, given, runs = routed(slug), prompts(), []
    for cache in (None, None, "static"):
        torch.manual_seed(11)
        runs.append(generate(model, given, do_sample=True, cache_implementation=cache))
    assert torch.equal(runs[0][1], runs[1][1])
    assert_same(runs[2], runs[0])


@each_with_memory
def test_a_static_cache_serves_twice(slug):
    """A cache that is reset and used again has forgotten the first prompt."""
    model = routed(slug)
    cache = transformers.StaticCache(config=model.config, max_cache_len=24)
    first, second = one_prompt(), {key: value.flip(1) for key, value in one_prompt().items()}
    found = generate(model, first, past_key_values=cache)
    cache.reset()
    again = generate(model, second, past_key_values=cache)
    assert_same(found, recompute(model, first))
    assert_same(again, recompute(model, second))


@each_with_memory
def test_every_layer_of_the_cache_holds_every_token_once(slug):
    model, given = routed(slug), prompts()
    out = model.generate(**given, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True)
    cache = out.past_key_values
    tokens = given["input_ids"].shape[1] + NEW - 1  # the last one is never read
    layers = model.config.num_hidden_layers
    assert len(cache.layers) > layers
    assert [layer.get_seq_length() for layer in cache.layers] == [tokens] * len(cache.layers)
    if slug == "x-lora":
        assert len(cache.layers) == 2 * layers
        for mine, alone in zip(cache.layers[:layers], cache.layers[layers:], strict=True):
            assert mine.keys.shape == alone.keys.shape
        assert not torch.equal(cache.layers[0].values, cache.layers[layers].values)


def test_the_first_pass_of_xlora_is_the_base():
    """Its cache holds the keys and values that the plain base would have."""
    model, given = routed("x-lora"), one_prompt()
    out = model.generate(**given, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True)
    plain = tiny.base()(input_ids=out.sequences[:, :-1], use_cache=True).past_key_values
    for mine, theirs in zip(out.past_key_values.layers[2:], plain.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=ATOL, rtol=1e-4)
        torch.testing.assert_close(mine.values, theirs.values, atol=ATOL, rtol=1e-4)


@pytest.mark.parametrize("slug", REMEMBERS)
def test_a_foreign_cache_is_refused(slug):
    """Tokens that no router saw cannot be remembered."""
    cache = transformers.DynamicCache()
    tiny.base()(**one_prompt(), past_key_values=cache)
    with pytest.raises(roster.RosterError, match="10 tokens that this recipe has not seen"):
        routed(slug)(input_ids=torch.tensor([[4]]), past_key_values=cache)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}])
def test_tasks(options):
    """Rows name their experts; each answers as it does alone, also when rows are repeated."""
    model, given = routed("named"), prompts()
    wanted = ["expert 1", None, "expert 3"]
    torch.manual_seed(0)
    together, _ = generate(model, given, tasks=wanted, **options)
    assert model.roster.generation.task_ids_B is None
    if options.get("do_sample"):
        mask = torch.cat([given["attention_mask"], torch.ones(3, NEW, dtype=torch.long)], dim=1).repeat_interleave(2, 0)
        ids = model.task_ids([name for name in wanted for _ in range(2)])
        torch.manual_seed(0)
        _, logits = generate(model, given, tasks=wanted, **options)
        with torch.no_grad():
            positions = (mask.cumsum(1) - 1).clamp_min(0)
            full = model(input_ids=together, attention_mask=mask, position_ids=positions, task_ids=ids).logits
        torch.testing.assert_close(logits, full[:, 6:-1], atol=ATOL, rtol=1e-4)
        return
    for row, name in enumerate(wanted):
        real = given["attention_mask"][row].bool()
        alone, _ = generate(model, {"input_ids": given["input_ids"][row : row + 1, real]}, tasks=[name], **options)
        assert torch.equal(together[row, 7:], alone[0, int(real.sum()) :])


def test_tasks_with_a_draft_model():
    """The draft model is a plain one and knows nothing of tasks."""
    plain, model, given = tiny.base(), routed("named"), one_prompt()
    plain.generation_config.eos_token_id = None
    expected = generate(model, given, tasks=["expert 2"])
    for options in assistants(plain):
        assert_same(generate(model, given, tasks=["expert 2"], **options), expected)


def test_a_prompt_that_is_too_long_is_refused():
    with pytest.raises(roster.RosterError, match="65 tokens, but the model's context holds 64"):
        routed("arrow-mbc").generate(torch.ones(1, 65, dtype=torch.long))


def test_no_tokens_are_refused():
    with pytest.raises(roster.RosterError, match="empty"):
        routed("arrow-mbc")(input_ids=torch.empty(1, 0, dtype=torch.long))


def test_one_task_and_one_mask_per_row():
    """Two names for four prompts are a mistake, not two names for two prompts each; beams come later."""
    model = attach(tiny.base(), tiny.library(tiny.base()), RECIPES["named"](), recipe="named").eval()
    ids = torch.stack(tiny.tokens(5, 5, 5, 5))
    for beams in (1, 2):
        with pytest.raises(roster.RosterError, match="2 tasks for 4 prompts: name one task per row"):
            model.generate(input_ids=ids, tasks=["expert 0", "expert 1"], num_beams=beams, max_new_tokens=2)
    with pytest.raises(roster.RosterError, match="8 tasks for 4 prompts"):
        model.generate(ids, task_ids=torch.zeros(8, dtype=torch.long), max_new_tokens=2)
    with pytest.raises(roster.RosterError, match=r"prompt_mask is \[2, 5\], the prompts are \[4, 5\]"):
        model.generate(ids, tasks=[None] * 4, prompt_mask=torch.ones(2, 5, dtype=torch.bool), max_new_tokens=2)
    assert model.generate(ids, tasks=["expert 0"] * 4, num_beams=2, max_new_tokens=2, pad_token_id=0).shape == (4, 7)


def test_a_pipeline_takes_it_for_what_it_is(caplog):
    """transformers looks the class up by its name, and lists two hundred others when it does not know it."""
    model = attach(tiny.base(), tiny.library(tiny.base()), RECIPES["uniform"](), recipe="uniform").eval()
    tokenizer = roster.routed.base.load_tokenizer("pocket")
    transformers.utils.logging.enable_propagation()
    try:
        pipeline = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    finally:
        transformers.utils.logging.disable_propagation()
    assert "not supported" not in caplog.text
    assert pipeline.model is model


@each_architecture
def test_the_last_tokens_of_a_batch_reach_the_head_in_one_piece(architecture):
    """In pieces, torch multiplies frozen weights row by row on processors, with a copy of the whole head for each."""
    model = routed("uniform", architecture)
    given = prompts()
    seen = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda head, args: seen.append(args[0]))
    try:
        with torch.no_grad():
            whole = model(**given).logits
            last = model(**given, logits_to_keep=2).logits
    finally:
        hook.remove()
    assert len(given["input_ids"]) > 1
    assert seen[-1].is_contiguous()
    torch.testing.assert_close(last, whole[:, -2:], atol=1e-5, rtol=1e-5)
