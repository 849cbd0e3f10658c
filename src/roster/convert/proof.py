"""What a conversion kept, measured in plain transformers: the old model and the new one on the same tokens.

Both models are loaded whole for it, in float32; conversion itself never does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

EXACT = 1e-3
"""The largest difference of logits, in float32, up to which a conversion counts as the same function."""
TOKENS = 512


@dataclass(frozen=True)
class Proof:
    """Old against new.

    Attributes:
        apart: largest absolute difference of two logits.
        agree: share of tokens whose most likely next token is the same.
        nats_before, nats_after: mean loss of the next token.
        tokens: looked at.
    """

    apart: float
    agree: float
    nats_before: float
    nats_after: float
    tokens: int

    @property
    def exact(self) -> bool:
        """Whether the function is the same."""
        return self.apart <= EXACT and self.agree == 1.0

    def text(self) -> str:
        """A line for people."""
        same = "the same function" if self.exact else "another function than before"
        return (
            f"{same}: logits differ by at most {self.apart:.2g}, the likeliest token agrees at {self.agree:.1%} of "
            f"{self.tokens} tokens, loss {self.nats_before:.4f} -> {self.nats_after:.4f} nats"
        )


@torch.no_grad()
def prove(dense: str | Path, made: str | Path, ids_BT: Tensor | None = None) -> Proof:
    """Both models on the same tokens.

    Args:
        dense: the folder that was converted.
        made: the folder that was written.
        ids_BT: token ids; by default `TOKENS` of Python's own documentation, or drawn ones without a tokenizer.
    """
    from transformers import AutoModelForCausalLM

    if ids_BT is None:
        ids_BT = _ids(Path(made))
    found = []
    for folder in (dense, made):
        model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
        found.append(model(input_ids=ids_BT, use_cache=False).logits)
        del model
    before, after = found
    losses = [
        torch.nn.functional.cross_entropy(each[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten()).item() for each in found
    ]
    agree = (before.argmax(-1) == after.argmax(-1)).double().mean().item()
    return Proof((before - after).abs().max().item(), agree, losses[0], losses[1], ids_BT.numel())


def _ids(folder: Path) -> Tensor:
    from transformers import AutoConfig, AutoTokenizer

    if any(folder.glob("tokenizer*")):
        from pydoc_data.topics import topics

        text = topics["class"][: 8 * TOKENS]
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:TOKENS]
        return torch.tensor(ids[: len(ids) // 4 * 4]).view(4, -1)
    vocabulary = AutoConfig.from_pretrained(str(folder)).vocab_size
    return torch.randint(vocabulary, (4, TOKENS // 4), generator=torch.Generator().manual_seed(0))
