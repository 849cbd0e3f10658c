"""A mixture on an encoder: a BERT classifier with adapters on its attention."""

import pytest
import torch
import transformers

import roster
import tiny
from roster.adapters.attach import attach
from roster.recipes import RECIPES

SLUGS = ("arrow-mbc", "x-lora", "smear", "uniform")


def base():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        num_labels=3,
        initializer_range=0.2,
    )
    return transformers.BertForSequenceClassification(config).eval()


def routed(slug):
    model = base()
    library = tiny.library(model, targets=("query", "value"))
    model = attach(model, library, RECIPES[slug](), recipe=slug).eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def logits(model, **given):
    with torch.no_grad():
        return model(**given).logits


@pytest.mark.parametrize("slug", SLUGS)
def test_encoder(slug, tmp_path):
    model, rows = routed(slug), tiny.tokens(6, 3, 5)
    ids, mask = tiny.padded(rows, "right")
    batch = logits(model, input_ids=ids, attention_mask=mask)
    for row, alone in zip(batch, rows, strict=True):
        torch.testing.assert_close(row[None], logits(model, input_ids=alone[None]), atol=1e-5, rtol=1e-5)
    assert (batch - logits(base(), input_ids=ids, attention_mask=mask)).abs().max() > 0.01
    model.save_pretrained(tmp_path / "saved")
    again = roster.load(tmp_path / "saved")
    assert isinstance(again, transformers.BertForSequenceClassification)
    assert torch.equal(logits(again, input_ids=ids, attention_mask=mask), batch)


@pytest.mark.parametrize("slug", SLUGS)
def test_embeddings_instead_of_ids(slug):
    model, ids = routed(slug), torch.stack(tiny.tokens(6, 6))
    embeds = model.get_input_embeddings()(ids)
    torch.testing.assert_close(logits(model, inputs_embeds=embeds), logits(model, input_ids=ids), atol=1e-6, rtol=0)


def test_an_adapter_of_the_pooler_says_why_it_cannot_be_routed():
    """The pooler sees one token per row; the error names the layer."""
    model = base()
    library = tiny.library(model, targets=("query", "dense"))
    with pytest.raises(roster.RosterError, match=r"bert\.pooler\.dense.*target_modules"):
        attach(model, library, RECIPES["arrow-mbc"](), recipe="arrow-mbc")
