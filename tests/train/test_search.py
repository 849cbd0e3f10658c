"""LoraHub: weights found by asking for the loss alone; against PEFT's combination, and a minimum that is known."""

import peft
import pytest
import torch

import roster
import tiny
from roster import RosterError
from roster.adapters.attach import attach
from roster.prompts import Rendering
from roster.recipes import find
from roster.recipes.lora_hub import search as evolve
from roster.train.build import build
from roster.train.data import Row
from roster.train.fit import Settings
from roster.train.search import search

# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
ROWS = [Row(prompt=f"{a}{b}", answer=f" {b}{a}") for a, b in ("ab", "cd", "xy", "no", "tu")]


def hub(model=None, library=None, **options):
    model = tiny.chat_base() if model is None else model
    library = tiny.library(model, 3, scales=[1.0, 2.0, 0.5]) if library is None else library
    return attach(model, library, find("lora-hub")(options), recipe="lora-hub", options=options).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def test_composition_is_pefts_of_factors_averaged_apart(tmp_path):
    """PEFT puts the root of weight times scale on both factors ("linear"), so it is given the squares of ours."""
    model, ids = tiny.base(), torch.stack(tiny.tokens(6, 6))
    library = tiny.library(model, 3, scales=[1.0] * 3, folder=tmp_path)
    ours, w = hub(model, library), [0.7, 0.0, 1.2]
    ours.roster.router.score.scores_E.data.copy_(torch.tensor(w))
    theirs = peft.PeftModel.from_pretrained(tiny.base(), str(library["expert 0"].path), adapter_name="expert 0")
    theirs.load_adapter(str(library["expert 2"].path), adapter_name="expert 2")
    squares = [w[0] ** 2, w[2] ** 2]
    theirs.add_weighted_adapter(["expert 0", "expert 2"], squares, "hub", combination_type="linear")
    theirs.set_adapter("hub")
    torch.testing.assert_close(logits(ours, ids), logits(theirs.eval(), ids), atol=1e-5, rtol=1e-5)
    merged = peft.PeftModel.from_pretrained(tiny.base(), str(ours.merge().save(tmp_path / "merged"))).eval()
    torch.testing.assert_close(logits(merged, ids), logits(ours, ids), atol=1e-5, rtol=1e-5)


def test_the_strategy_finds_a_minimum_that_is_known():
    target_E, asked = torch.tensor([0.5, -1.0, 1.4, 0.0]), []

    def loss(weight_E):
        asked.append(weight_E.clone())
        return float((weight_E - target_E).square().sum())

    found_E = evolve(loss, torch.zeros(4), 300, bound=1.5, step=0.3)
    assert len(asked) == 300
    torch.testing.assert_close(found_E, target_E, atol=0.02, rtol=0)
    assert max(float(each.abs().max()) for each in asked) <= 1.5
    outside_E = evolve(lambda w: float((w - 9.0).square().sum()), torch.zeros(4), 200, bound=1.5, step=0.3)
    torch.testing.assert_close(outside_E, torch.full((4,), 1.5), atol=0.02, rtol=0)


def test_a_search_never_ends_worse_than_it_began_and_leaves_what_it_found():
    model, rendering = hub(average="updates"), Rendering(tiny.chat_tokenizer(None), False)
    settings = Settings(steps=25, batch_size=2, progress=False)
    asked = []
    inner = model.roster.plan.search

    def spying(loss, *others):
        def counted(weight_E):
            asked.append((weight_E.clone(), loss(weight_E)))
            return asked[-1][1]

        return inner(counted, *others)

    object.__setattr__(model.roster.plan, "search", spying)
    record = search(model, ROWS, rendering, settings)
    assert len(asked) == 25
    first, found_E = asked[0], model.roster.router.score.scores_E.detach()
    assert not first[0].any()  # it starts from the base
    best_E, least = min(asked, key=lambda pair: pair[1] + 0.05 * float(pair[0].abs().mean()))
    assert torch.equal(found_E, best_E)
    assert least < first[1]
    assert record["lowest"] <= round(least, 4)
    # What was asked for is the mean over all answers' tokens, whatever the batches.
    whole = Settings(steps=2, batch_size=5, progress=False)
    asked.clear()
    model.roster.router.score.scores_E.data.copy_(best_E)
    search(model, ROWS, rendering, whole)
    assert asked[0][1] == pytest.approx(least, abs=1e-5)


def test_build_searches_and_writes_what_it_found(tmp_path):
    base = tiny.chat_base()
    base.save_pretrained(tmp_path / "base")
    tiny.chat_tokenizer(None).save_pretrained(str(tmp_path / "base"))
    tiny.library(base, 3, folder=tmp_path / "experts")
    settings = Settings(steps=10, batch_size=5, progress=False)
    record = build(tmp_path / "base", tmp_path / "experts", "lora-hub", tmp_path / "out", rows=ROWS, settings=settings)
    model = roster.load(tmp_path / "out")
    found = dict(zip(model.roster.experts, model.roster.router.score.scores_E.tolist(), strict=True))
    assert record["weights"] == pytest.approx(found, abs=1e-4)
    assert any(record["weights"].values())
    with pytest.raises(RosterError, match="trains its router: give it data"):
        build(tmp_path / "base", tmp_path / "experts", "lora-hub", tmp_path / "other")


def test_what_searches_for_nothing_is_refused():
    model = tiny.chat_base()
    other = attach(model, tiny.library(model, 2), find("uniform")(), recipe="uniform")
    with pytest.raises(RosterError, match="searches for nothing"):
        search(other, ROWS, tiny.chat_tokenizer(None))
    with pytest.raises(RosterError, match="must be above 0"):
        hub(bound=0.0)
    base = tiny.chat_base()
    library = tiny.library(base, 2, ranks=[2, 4])
    with pytest.raises(RosterError, match="same rank"):
        hub(base, library)
