"""An adapter that does not fit a model is an error that names file, tensor and shapes; never silence."""

import json

import peft
import pytest
import tokenizers
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

import tiny
from library import saved
from roster import RosterError
from roster.library import Library, LowRank, check_fits, make_adapter, read_adapter
from roster.library.fits import linear_size
from roster.library.reading import WEIGHTS


def update(in_features, out_features):
    return LowRank(torch.ones(2, in_features), torch.ones(out_features, 2), 1.0)


def refused(adapter, model):
    with pytest.raises(RosterError) as caught:
        check_fits(adapter, model)
    return str(caught.value)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_fits(architecture, tmp_path):
    saved.save(tmp_path / "one", architecture, target_modules="all-linear")
    check_fits(read_adapter(tmp_path / "one"), tiny.base(architecture))


def test_another_architecture(adapter_folder):
    message = refused(read_adapter(adapter_folder), tiny.base("gpt2"))
    assert str(adapter_folder / WEIGHTS) in message
    assert "tensor 'model.layers.0.self_attn.q_proj.lora_A.weight' has no module" in message
    assert "transformer.h.0." in message  # the nearest names, or all of them
    assert "3 more of its 4 modules" in message


def test_the_body_without_the_head(adapter_folder):
    """The same model under other names: the message shows the right ones."""
    message = refused(read_adapter(adapter_folder), tiny.base("llama").model)
    assert "did you mean 'layers.0.self_attn.q_proj'" in message


@pytest.mark.parametrize(
    ("factor", "got", "expected"), [("lora_A", [2, 31], [2, 32]), ("lora_B", [33, 2], [32, 2]), ("both", [2, 48], None)]
)
def test_wrong_shapes(factor, got, expected):
    name = "model.layers.0.self_attn.q_proj"
    in_features = got[1] if factor != "lora_B" else 32
    adapter = make_adapter("one", {name: update(in_features, got[0] if factor == "lora_B" else 32)}, base="some/base")
    message = refused(adapter, tiny.base())
    assert "some/base" in message
    assert all(str(each) in message for each in (name, got, expected or [2, 32]))


def test_conv1d_is_the_other_way_round():
    name = "transformer.h.0.attn.c_attn"
    check_fits(make_adapter("one", {name: update(32, 96)}, base="b"), tiny.base("gpt2"))
    assert "[2, 96], but this model needs [2, 32]" in refused(
        make_adapter("one", {name: update(96, 32)}, base="b"), tiny.base("gpt2")
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [("model.embed_tokens", "LlamaEmbedding|Embedding"), ("model.norm", "RMSNorm"), ("model", "Model")],
)
def test_layers_that_are_not_linear(name, kind):
    message = refused(make_adapter("one", {name: update(32, 32)}, base="b"), tiny.base())
    assert "not a linear layer" in message
    assert any(each in message for each in kind.split("|"))


class Quantised(nn.Module):
    """What the layers of GPTQ, AWQ and others look like: packed weights, and the sizes as attributes."""

    def __init__(self):
        super().__init__()
        self.in_features, self.out_features = 6, 5
        self.register_buffer("qweight", torch.zeros(3, 2, dtype=torch.int32))


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (nn.Linear(6, 5), (6, 5)),
        (Conv1D(5, 6), (6, 5)),
        (Quantised(), (6, 5)),
        (nn.Embedding(6, 5), None),
        (nn.Conv2d(6, 5, 1), None),
        (nn.MultiheadAttention(6, 2).out_proj, None),  # its forward is never called
    ],
)
def test_linear_size(module, size):
    assert linear_size(module) == size


def test_a_model_with_adapters_on_it(adapter_folder):
    adapter = read_adapter(adapter_folder)
    model = peft.PeftModel.from_pretrained(tiny.base(), adapter_folder)
    for loaded in (model, model.base_model.model):
        assert "carries PEFT adapters already" in refused(adapter, loaded)
    check_fits(adapter, model.unload())


def test_a_library_checks_every_adapter():
    good = make_adapter("good", {"model.layers.0.self_attn.q_proj": update(32, 32)}, base="b")
    bad = make_adapter("bad", {"model.layers.7.self_attn.q_proj": update(32, 32)}, base="b")
    Library({"good": good}).check(tiny.base())
    with pytest.raises(RosterError, match=r"adapter 'bad': .*layers\.7"):
        Library({"good": good, "bad": bad}).check(tiny.base())


def beside(folder, kind, last):
    """What tells of the tokens that an adapter was trained on, of which the last is this one."""
    token = {"content": "<new>"}
    if kind == "base":
        (folder / "base").mkdir()
        tiny.base().config.save_pretrained(folder / "base")
        config = json.loads((folder / "base" / "config.json").read_text())
        (folder / "base" / "config.json").write_text(json.dumps(config | {"vocab_size": last + 1}))
        given = json.loads((folder / "adapter_config.json").read_text())
        told = {"adapter_config.json": given | {"base_model_name_or_path": str(folder / "base")}}
    else:
        told = {
            "tokenizer.json": {"added_tokens": [{"id": 0, "content": "<pad>"}, {"id": last, **token}], "model": {}},
            "tokenizer_config.json": {"added_tokens_decoder": {"0": {"content": "<pad>"}, str(last): token}},
            "added_tokens.json": {"<new>": last},
        }
        told = {kind: told[kind]}
    for name, content in told.items():
        (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json", "base"])
@pytest.mark.parametrize(("last", "fits"), [(63, True), (64, False), (70, False)])
def test_an_adapter_with_tokens_that_the_base_has_not(last, fits, kind, tmp_path):
    """Its tensors fit; only what was saved beside them tells of the resized base."""
    tiny.library(tiny.base(), 1, folder=tmp_path)
    beside(tmp_path / "expert 0", kind, last)
    library = Library.read(tmp_path)
    if fits:
        library.check(tiny.base())
        return
    with pytest.raises(RosterError, match=rf"token {last}, but this base has embeddings for 64 only.*resized base"):
        library.check(tiny.base())


def test_the_tokenizer_that_transformers_writes_today(tmp_path):
    """With a token more than the base has embeddings for, as after `add_tokens` and `resize_token_embeddings`."""
    tiny.library(tiny.base(), 1, folder=tmp_path)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({str(each): each for each in range(tiny.VOCAB)}, "0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.save_pretrained(tmp_path / "expert 0")
    Library.read(tmp_path).check(tiny.base())
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "expert 0")
    with pytest.raises(RosterError, match="token 64, but this base has embeddings for 64 only"):
        Library.read(tmp_path).check(tiny.base())


@pytest.mark.parametrize("lora_embedding", [True, False])
def test_an_adapter_that_carries_embeddings(lora_embedding, tmp_path):
    """Rows of the embedding or the head, as PEFT saves them after a resize; and an update of the head, by its shape."""
    resized = tiny.base()
    resized.resize_token_embeddings(tiny.VOCAB + 2, mean_resizing=False)
    targets = ["q_proj", "embed_tokens"] if lora_embedding else ["q_proj", "lm_head"]
    model = peft.get_peft_model(resized, peft.LoraConfig(target_modules=targets))
    model.save_pretrained(tmp_path / "one")
    with pytest.raises(RosterError, match=r"embed_tokens|lm_head"):
        check_fits(read_adapter(tmp_path / "one"), tiny.base())
