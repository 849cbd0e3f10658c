"""Models with an encoder and a decoder: each layer gets the mask and the routes of the tokens that it reads."""

import peft
import pytest
import torch
import transformers

import roster
import tiny
from roster.adapters.attach import attach
from roster.moe import replace
from roster.recipes import RECIPES

# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0, "vocab_size": tiny.VOCAB}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, **_IDS}
_BART = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4},
    **{"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64},
    **_IDS,
}
MODELS = {
    "T5": (_T5, ("q", "k", "v", "wi")),
    "MT5": (_T5, ("q", "k", "v", "wo")),
    "UMT5": (_T5, ("q", "v")),
    "Bart": (_BART, ("q_proj", "k_proj", "v_proj", "fc1")),
    "MBart": (_BART, ("q_proj", "v_proj")),
    "Marian": (_BART, ("k_proj", "v_proj", "out_proj")),
    "Pegasus": (_BART, ("k_proj", "v_proj", "fc2")),
    "Blenderbot": (_BART, ("k_proj", "v_proj")),
    "M2M100": (_BART, ("k_proj", "v_proj")),
    "PLBart": (_BART, ("k_proj", "v_proj")),
}
CLASSES = {"Marian": "MarianMTModel"}


def base(name):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**MODELS[name][0])
    return getattr(transformers, CLASSES.get(name, f"{name}ForConditionalGeneration"))(config).eval()


def library(name, count=3, folder=None):
    return tiny.library(base(name), count, targets=MODELS[name][1], folder=folder, scales=[4.0] * count)


def routed(name, slug, count=3):
    return attach(base(name), library(name, count), RECIPES[slug](), recipe=slug).eval()


# As many tokens for the decoder as for the encoder, and padding in the encoder alone: the case that went wrong.
SOURCE = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
MASK = SOURCE != 0
TARGET = torch.tensor([[0, 11, 12, 13, 14], [0, 21, 22, 23, 24]])


def answer(model, **given):
    with torch.no_grad():
        return model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET, use_cache=False, **given).logits


@pytest.mark.parametrize("name", MODELS)
def test_one_adapter_is_peft(name, tmp_path):
    """Where decoder and encoder are equally long, and where they are not; and generating, with beams."""
    library(name, 1, tmp_path)
    theirs = peft.PeftModel.from_pretrained(base(name), tmp_path / "expert 0").eval()
    ours = routed(name, "uniform", 1)
    torch.testing.assert_close(answer(ours), answer(theirs), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(answer(ours), answer(base(name)), atol=1e-3)
    given = {"input_ids": SOURCE, "attention_mask": MASK, "decoder_input_ids": TARGET[:, :2], "use_cache": False}
    with torch.no_grad():
        torch.testing.assert_close(ours(**given).logits, theirs(**given).logits, atol=1e-5, rtol=1e-4)
    for beams in (1, 2):
        settings = {"max_new_tokens": 5, "num_beams": beams, "do_sample": False}
        given = {"input_ids": SOURCE, "attention_mask": MASK, **settings}
        assert torch.equal(ours.generate(**given), theirs.generate(**given))


@pytest.mark.parametrize("name", ["T5", "Bart"])
@pytest.mark.parametrize("slug", ["arrow-mbc", "named", "phatgoose"])
def test_padding_and_batch_mates_change_nothing(slug, name, tmp_path):
    experts = library(name, 3, tmp_path)
    model = attach(base(name), experts, RECIPES[slug](), recipe=slug).eval()
    both = {"task_ids": torch.tensor([0, 1])} if slug == "named" else {}
    one = {"task_ids": torch.tensor([1])} if slug == "named" else {}
    together = answer(model, **both)
    with torch.no_grad():
        alone = model(input_ids=SOURCE[1:, :3], decoder_input_ids=TARGET[1:], use_cache=False, **one).logits
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_tasks_reach_encoder_and_decoder(name):
    """Each row of a batch generates as it does alone, under the adapter that it names."""
    model = routed(name, "named")
    experts = ["expert 2", None]
    given = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    together = model.generate(input_ids=SOURCE, attention_mask=MASK, tasks=experts, **given)
    for row, task, ids in zip(together, experts, (SOURCE[:1], SOURCE[1:, :3]), strict=True):
        alone = model.generate(input_ids=ids, tasks=[task], **given)[0]
        assert torch.equal(row[: len(alone)], alone)
        assert not row[len(alone) :].any()


def test_blocks_of_both_sides():
    """Feed-forward mixtures: pad tokens of the encoder are nobody's, and the decoder has none."""
    torch.manual_seed(0)
    model = replace(base("T5"), "gshard-top2").eval()
    together = answer(model)
    with torch.no_grad():
        alone = model(input_ids=SOURCE[1:, :3], decoder_input_ids=TARGET[1:], use_cache=False).logits
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-4)
    generated = model.generate(input_ids=SOURCE, attention_mask=MASK, max_new_tokens=4, do_sample=False)
    assert generated.shape[0] == 2


def test_training_with_labels():
    model = routed("T5", "mov-molora").train()
    loss = model(input_ids=SOURCE, attention_mask=MASK, labels=TARGET).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("slug", ["x-lora", "smear", "milora-prompt-routed"])
def test_recipes_that_need_one_prompt_are_refused(slug):
    with pytest.raises(roster.RosterError, match=r"two kinds of: take one that decides in every layer"):
        routed("T5", slug)


def small(name, **more):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    return getattr(transformers, f"{name}Config")(vocab_size=tiny.VOCAB, **sizes, **more)


@pytest.mark.parametrize(
    ("name", "more", "targets", "layer"),
    [
        ("DebertaV2", {"relative_attention": True, "share_att_key": True}, ("query_proj", "value_proj"), "query_proj"),
        ("Deberta", {"relative_attention": True, "pos_att_type": ["c2p"]}, ("pos_proj",), "pos_proj"),
        ("Longformer", {"attention_window": 4}, ("query",), "query"),
        ("XLNet", {"d_inner": 48, "d_head": 8}, ("layer_1",), "layer_1"),
    ],
)
def test_layers_that_read_something_else_are_refused_by_name(name, more, targets, layer):
    model = getattr(transformers, f"{name}Model")(small(name, **more))
    with pytest.raises(roster.RosterError, match=rf"the layer '.*{layer}' was called with rows of tokens"):
        attach(model, tiny.library(model, targets=targets), RECIPES["arrow-mbc"](), recipe="arrow-mbc")


def test_other_layers_of_such_models_are_routed():
    torch.manual_seed(0)
    model = transformers.DebertaV2Model(small("DebertaV2", relative_attention=True, share_att_key=True)).eval()
    library = tiny.library(model, targets=("value_proj", "dense"))
    model = attach(model, library, RECIPES["arrow-mbc"](), recipe="arrow-mbc").eval()
    rows = tiny.tokens(6, 4)
    ids, mask = tiny.padded(rows, "right")
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=mask).last_hidden_state
        alone = model(input_ids=rows[1][None]).last_hidden_state
    torch.testing.assert_close(together[1:, :4], alone, atol=1e-5, rtol=1e-4)


def test_unknown_families_with_an_encoder_are_refused():
    model = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**_BART, attention_window=4)).eval()
    with pytest.raises(roster.RosterError, match=r"which layers of a 'led' model"):
        attach(model, tiny.library(model, targets=("fc1",)), RECIPES["uniform"](), recipe="uniform")
