"""Examples are read many at a time, and what is learnt from them is what each of them alone says."""

import copy

import pytest
import torch

import tiny
from roster.adapters.attach import attach
from roster.auto.duels import champion
from roster.library import Library
from roster.library.wearing import wearing
from roster.prompts import Rendering
from roster.recipes import RECIPES

EXAMPLES = ["ab", "a longer example than that", "c", "of some length, and more", "d e f"]


def library():
    cards = tiny.library(tiny.chat_base(), 3)
    made = {}
    for at, (name, each) in enumerate(cards.items()):
        card = each.card.model_copy(update={"examples": [f"{text} {at}" for text in EXAMPLES[at:] * (1 + 4 * at)]})
        made[name] = type(each)(each.name, each.path, each.modules, card, each.config, each.weights_hash)
    return Library(made)


@pytest.mark.parametrize("embed", ["tokens", "hidden"])
def test_token_level_adaptation(embed):
    base, known, words = tiny.chat_base(), library(), tiny.chat_tokenizer()
    calls = []
    base.base_model.register_forward_hook(lambda *_: calls.append(1))
    model = attach(base, known, RECIPES["lora-tle"]({"embed": embed}), recipe="lora-tle", tokenizer=words)
    plain, rendering, means = tiny.chat_base(), Rendering(words), []
    for adapter in known.values():
        rows = []
        for prompt in adapter.card.examples:
            ids = torch.tensor([rendering.ids(prompt)])
            with torch.no_grad():
                hidden = embed == "hidden"
                rows.append(
                    (plain.base_model(input_ids=ids).last_hidden_state if hidden else plain.model.embed_tokens(ids))[0]
                )
        means.append(torch.cat(rows).mean(0))
    expected = torch.stack(means)
    center_D, found_ED = model.roster.head.center_D, model.roster.router.score.vectors_ED
    torch.testing.assert_close(center_D, expected.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found_ED, expected - expected.mean(0), atol=1e-5, rtol=1e-5)
    count = sum(len(each.card.examples) for each in known.values())
    assert len(calls) == (-(-count // 16) if embed == "hidden" else 0)


def test_duels():
    """The one whose answers tell most, each prompt read alone."""
    base, known, words = tiny.chat_base(), library(), tiny.chat_tokenizer()
    first = known[known.names[0]].card
    known = Library(
        {name: type(a)(a.name, a.path, a.modules, first, a.config, a.weights_hash) for name, a in known.items()}
    )
    rendering, worth = Rendering(words), []
    prompts = [prompt for each in known.values() for prompt in each.card.examples]
    some = [rendering.ids(prompt) for prompt in prompts[:: max(1, len(prompts) // 8)][:8]]
    for adapter in known.values():
        with wearing(base, adapter), torch.no_grad():
            p_NV = torch.stack([base(input_ids=torch.tensor([row])).logits[0, -1] for row in some]).softmax(1)
        entropy = (
            torch.distributions.Categorical(p_NV.mean(0)).entropy()
            - 2 * torch.distributions.Categorical(p_NV).entropy().mean()
        )
        worth.append(float(entropy))
    assert sorted(worth)[-1] - sorted(worth)[-2] > 1e-3
    calls = []
    watched = copy.deepcopy(base)
    watched.register_forward_hook(lambda *_: calls.append(1))
    assert champion(watched, known, rendering, [0, 1, 2]) == max(range(3), key=worth.__getitem__)
    assert len(calls) == 3
