"""The pocket models' tokenizer: one token per printable ASCII character, as ordinary transformers files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]
MAX_LENGTH = 256
"""Longest sequence in tokens, prompt and answer together."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: puts ``<s>`` in front, pads on the left, writes anything but printable ASCII as ``<unk>``."""
    from tokenizers import Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: at for at, token in enumerate([PAD, BOS, EOS, UNKNOWN, *CHARACTERS])}
    # Byte-pair encoding without a single merge splits a text into its characters, spaces included.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
