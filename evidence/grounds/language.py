"""A small language model on real text: four layers of width 128, a byte-pair vocabulary of 2,048, Python's own sources.

The text is the standard library (documentation strings, comments and code, without its tests) and the language's
manual, about 3.5 million tokens, which every installation of Python 3.11 carries. It is tokenised once and kept in the
cache folder under the digest of the text. float32 and one thread: on the processors at hand bfloat16 was slower for
mixtures; compilation was not tried.

Shape legend: B rows, S tokens per row, T tokens of the text.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from evidence.protocol.check import Contender, Draw
from roster import moe
from roster.arena.moe.pretrain import Terms, optimise, small_model
from roster.files import write_whole
from roster.router import Router

VOCAB = 2048
_HELD_OUT = 10  # every tenth file is for validation
_LEFT_OUT = {"test", "tests", "idle_test", "lib2to3", "site-packages", "dist-packages"}


SHORT = Terms(rows=8, length=128, width=128, layers=4, hidden=128, learning_rate=3e-3, validation_rows=64)
"""0.3 million tokens: about half a minute of one core."""
LONG = replace(SHORT, steps=1400, rows=16)
"""2.9 million tokens, once through the text: about five minutes of one core."""
SHORTER = replace(SHORT, steps=SHORT.steps * 9 // 10)
"""A tenth of the steps less: a handicap of a size that a check has to see."""


@dataclass(frozen=True)
class Calm:
    """What is to bring the spread of paired runs down.

    The ground's seed then gives the order of the text and all initial weights that contenders have in common; luck
    gives what is left, their routers.

    Attributes:
        rate, end: peak of the learning rate, and the share of it that it falls to.
        average: decay of the running mean of the weights that is judged; 0 judges the last weights.
        rows: of the validation text.
    """

    rate: float = 1e-3
    end: float = 0.0
    average: float = 0.0
    rows: int = 384


@dataclass(frozen=True)
class Text:
    """Token ids.

    Attributes:
        train, validation: [T].
    """

    train: Tensor
    validation: Tensor

    def batch(self, step: int, terms: Terms, seed: int, share: float = 1.0) -> Tensor:
        """The rows of one training step, [B, S], from the first share of the text: the same for all of a seed."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        last = int(share * len(self.train)) - terms.length
        start_B = torch.randint(0, last, (terms.rows,), generator=generator)
        return self.train[start_B[:, None] + torch.arange(terms.length)]

    def held_out(self, terms: Terms) -> Tensor:
        """Evenly spaced rows of the validation text, [rows, S]."""
        start_B = torch.linspace(0, len(self.validation) - terms.length, terms.validation_rows).long()
        return self.validation[start_B[:, None] + torch.arange(terms.length)]


@functools.cache
def text() -> Text:
    """Reads the tokenised text, which the first call makes (about 20 seconds)."""
    parts = _parts()
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roster" / "evidence"
    path = home / f"python-{VOCAB}-{digest}.npy"
    if not path.exists():
        _tokenise(parts, path)
    ids = np.load(path)
    split = int(ids[0]) * 65536 + int(ids[1])  # where the validation text begins
    train, validation = (torch.from_numpy(part.astype(np.int64)) for part in (ids[2 : 2 + split], ids[2 + split :]))
    return Text(train, validation)


def _parts() -> tuple[str, str]:
    """(Training text, validation text)"""
    from pydoc_data.topics import topics

    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in library.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(library).parts))
    documents = {
        **{path.relative_to(library).as_posix(): path.read_text(encoding="utf-8", errors="replace") for path in files},
        "manual": "\n\n".join(topics[name] for name in sorted(topics)),
    }
    held_out = {name for name in documents if hashlib.sha256(name.encode()).digest()[0] % _HELD_OUT == 0}
    train = "\n".join(content for name, content in documents.items() if name not in held_out)
    return train, "\n".join(documents[name] for name in documents if name in held_out)


def _tokenise(parts: tuple[str, str], path: Path) -> None:
    import io

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(parts[0].splitlines(keepends=True), trainer)
    train, validation = (
        [id for row in tokenizer.encode_batch(part.splitlines(keepends=True)) for id in row.ids] for part in parts
    )
    ids = np.array([len(train) // 65536, len(train) % 65536, *train, *validation], dtype=np.uint16)
    buffer = io.BytesIO()
    np.save(buffer, ids)
    write_whole(path, buffer.getvalue())


def model(terms: Terms, seed: int) -> Any:
    """A Llama with random weights."""
    import transformers

    transformers.logging.set_verbosity_error()
    return small_model(terms, seed, VOCAB)


def train(made: Any, draw: Draw, terms: Terms, share: float = 1.0, calm: Calm | None = None) -> Any:
    """Trains a model whose blocks were replaced; the text's order is the draw's luck (calm: its ground)."""

    def batch(step: int) -> dict[str, Tensor]:
        ids_BS = text().batch(step, terms, draw.luck if calm is None else draw.ground, share)
        return {"input_ids": ids_BS, "labels": ids_BS}

    steps = draw.steps(terms.steps)
    if calm is None:
        optimise(made, batch, steps, terms.learning_rate)
        return made.eval()
    mean = RunningMean(made, calm.average)
    optimise(made, batch, steps, calm.rate, lambda *_: mean.update(), calm.end)
    mean.put_back()
    return made.eval()


class RunningMean:
    """Of a model's weights, from its first ones on: `mean = decay * mean + (1 - decay) * weights`."""

    def __init__(self, model: nn.Module, decay: float):
        self.weights = [p.data for p in model.parameters()]
        self.decay = decay
        self.mean = [each.clone() for each in self.weights]

    def update(self) -> None:
        """After a step."""
        torch._foreach_lerp_(self.mean, self.weights, 1 - self.decay)

    def put_back(self) -> None:
        """The mean becomes the model's weights."""
        torch._foreach_copy_(self.weights, self.mean)


@torch.no_grad()
def start_alike(made: nn.Module, seed: int) -> None:
    """Draws experts' weights [E, in, out] anew, each from its name and the seed, with deviation 1 / sqrt(in).

    Recipes draw their routers before or between their experts, so that under one seed they begin with other experts.
    """
    for name, parameter in made.named_parameters():
        if ".experts." in name and parameter.dim() == 3:
            own = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6], "big")
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(own))
            parameter.copy_(drawn * parameter.shape[1] ** -0.5)


@torch.no_grad()
def loss(made: Any, terms: Terms) -> float:
    """Held-out loss in nats per token, of the language model alone."""
    ids_BS = text().held_out(terms)
    found = []
    for rows in ids_BS.split(16):
        logits = made(input_ids=rows, use_cache=False).logits
        found.append(nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none"))
    return float(torch.cat(found).mean())


Change = Callable[[Router], None]


def loss_of(
    recipe: str,
    options: Mapping[str, Any] | None = None,
    *,
    change: Change | None = None,
    hidden: int | None = None,
    terms: Terms = SHORT,
    share: float = 1.0,
    calm: Calm | None = None,
) -> Contender:
    """A contender whose statistic is its held-out loss.

    Args:
        recipe, options: of kind "moe".
        change: of every router, by hand.
        hidden: units that a token may use; by default the terms'.
        terms: sizes and steps.
        share: of the text, to be learned from again and again.
        calm: what contenders have in common, and how gently they learn.
    """

    def run(draw: Draw) -> float:
        base = model(terms, draw.luck if calm is None else draw.ground)
        if calm is not None:
            torch.manual_seed(draw.luck)
        made: Any = moe.replace(base, recipe, options=options, hidden=hidden)
        for module in made.modules():
            if change is not None and isinstance(module, Router):
                change(module)
        if calm is not None:
            start_alike(made, draw.ground)
        judged = terms if calm is None else replace(terms, validation_rows=4 if draw.short else calm.rows)
        return loss(train(made, draw, terms, share, calm), judged)

    return run


TOP2: tuple[str, Contender] = ("top-2 of 8 experts, linear router, balance 0.01", loss_of("gshard-top2"))
LESS: tuple[str, Contender] = (
    "control: the same mixture, trained for a tenth fewer steps",
    loss_of("gshard-top2", terms=SHORTER),
)
