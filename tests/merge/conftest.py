"""Small Llamas with a tokenizer, and texts for each: what merges that learn from data start from."""

import json

import pytest
import torch

import tiny


def lines(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


@pytest.fixture
def family(tmp_path):
    """A base `b`, models `m0` and `m1` made of it, and ten rows of texts for each model: `d0.jsonl`, `d1.jsonl`."""
    torch.manual_seed(5)
    tokenizer = tiny.chat_tokenizer()
    model = tiny.chat_base()
    start = {name: each.clone() for name, each in model.named_parameters()}
    for name, size in (("b", 0.0), ("m0", 0.1), ("m1", 0.2)):
        with torch.no_grad():
            for key, each in model.named_parameters():
                each.copy_(start[key] + size * torch.randn(each.shape))
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    words = ["salt", "river", "nine", "copper", "listen", "oak", "window", "harbour", "quick", "moss"]
    chats = [
        [{"role": "user", "content": f"say {each}"}, {"role": "assistant", "content": each.upper()}] for each in words
    ]
    lines(tmp_path / "d0.jsonl", [{"messages": each} for each in chats])
    lines(tmp_path / "d1.jsonl", [{"prompt": f"{each} times {len(each)}", "answer": each[::-1]} for each in words])
    return tmp_path
