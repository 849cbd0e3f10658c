"""A tiny random Llama with a chat template, which stands for the real base."""

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import tiny


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.chat_tokenizer()


@pytest.fixture
def base(tokenizer) -> LlamaForCausalLM:
    return tiny.chat_base()
