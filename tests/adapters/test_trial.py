"""Layers that do not read a model's tokens row by row are refused before anything is attached."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

import roster
import tiny
from moe.mixtures import mixture
from roster.adapters.attach import attach
from roster.moe import adopt, replace
from roster.recipes import RECIPES
from roster.routed.trial import _skeleton, try_layers


class Config(transformers.PreTrainedConfig):
    model_type = "made-up"

    def __init__(self, order="rows", hidden_size=32, vocab_size=tiny.VOCAB, on_meta=True, mixture=False, **others):
        self.order, self.hidden_size, self.vocab_size = order, hidden_size, vocab_size
        self.on_meta, self.mixture = on_meta, mixture
        super().__init__(**others)


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.act_fn = nn.GELU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.up_proj(x)))


class Model(transformers.PreTrainedModel):
    """One block, which reads the tokens in the order that the config says."""

    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        if not config.on_meta and torch.get_default_device().type == "meta":
            raise RuntimeError("this class is made with values only")
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mlp = mixture("mixtral").model.layers[0].mlp if config.mixture else FeedForward(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids=None, attention_mask=None, return_dict=None, **others):
        x = self.embed(input_ids)
        if "sequence" in self.config.order:
            x = x.transpose(0, 1).contiguous()
        shape = x.shape
        if "flat" in self.config.order:
            x = x.reshape(-1, x.shape[-1])
        x = self.mlp(x).view(shape)
        x = x.transpose(0, 1) if "sequence" in self.config.order else x
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=x)


def made(order, **more):
    torch.manual_seed(0)
    return Model(Config(order, **more)).eval()


ROUTED = {
    "attach": lambda model: attach(
        model, tiny.library(model, targets=("up_proj",)), RECIPES["arrow-mbc"](), recipe="arrow-mbc"
    ),
    "replace": lambda model: replace(model, "gshard-top2"),
    "adopt": adopt,
}


def ways(order):
    """Blocks around experts are never called with flattened rows: they flatten themselves."""
    return [
        (each, how)
        for each in (order, f"{order}, flat")
        for how in ROUTED
        if (each, how) != (f"{order}, flat", "adopt")
    ]


REFUSED = r"the layer 'mlp.*' (was called with rows of tokens of the shape \[2, 3\]|reads the tokens .* another order)"


@pytest.mark.parametrize("on_meta", [True, False])
@pytest.mark.parametrize(("order", "how"), ways("sequence first"))
def test_sequence_first(order, how, on_meta):
    model = made(order, on_meta=on_meta, mixture=how == "adopt")
    with pytest.raises(roster.RosterError, match=REFUSED):
        ROUTED[how](model)
    assert not any("roster" in name for name, _ in model.named_modules())


@pytest.mark.parametrize(("order", "how"), ways("rows"))
def test_row_by_row(order, how):
    """The control: nothing else about such models is in the way, and padding is told from tokens in as many rows."""
    model = ROUTED[how](made(order, mixture=how == "adopt"))
    model.train().eval()
    ids, mask = tiny.padded(tiny.tokens(2, 1), "right")
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=mask).last_hidden_state
        alone = model(input_ids=ids[1:, :1]).last_hidden_state
    torch.testing.assert_close(together[1:, :1], alone)


def test_the_model_is_left_as_it_was():
    """Modes, hooks and random numbers are those of before; weights are not read where shapes tell the order."""
    model, calls = tiny.base().train(), SimpleNamespace(count=0)
    model.model.layers[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    model.lm_head.register_forward_hook(lambda *_: setattr(calls, "count", calls.count + 1))
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)

    try_layers(model, [name for name, module in model.named_modules() if isinstance(module, nn.Linear)])
    assert torch.equal(torch.rand(3), wanted)
    assert calls.count == 0
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert sum(len(module._forward_hooks) for module in model.modules()) == 1


def test_the_skeleton_has_no_weights_and_attends_by_plain_operations():
    """Kernels of others may know nothing of tensors without values."""
    model = made("rows")
    skeleton = _skeleton(model)
    assert {each.device.type for each in skeleton.parameters()} == {"meta"}
    assert skeleton.config._attn_implementation == "eager"
    assert skeleton.config is not model.config
