"""Text for the arena: three domains that every installation of Python and roster carries. Nothing is downloaded.

- *code*: the sources of the standard library's top-level modules;
- *manual*: the language reference in `pydoc_data.topics`;
- *skills*: prompts and answers of roster's own skill suite.

Files and topics are split between training and validation by a hash of their name, skills by construction; what a
held-out topic says is taken out of the others. The text depends on the version of Python, which results therefore
name.

Shape legend: B batch rows, S tokens per row.
"""

from __future__ import annotations

import functools
import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from roster.pocket.skills import SKILLS, examples

DOMAINS = ("code", "manual", "skills")
VOCAB = 1024
_CHARACTERS = 600_000  # per domain for training: what a few hundred small steps read
_HELD_OUT = 8  # every eighth document is for validation


def _documents() -> Iterator[tuple[str, str, str]]:
    """(domain, split, text)"""
    from pydoc_data.topics import topics

    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        yield "code", _split(path.name), path.read_text(encoding="utf-8", errors="replace")
    # Topics quote each other at length: a paragraph of a held-out topic may stand in no other.
    held_out = {p for name in topics if _split(name) == "validation" for p in topics[name].split("\n\n")}
    for name in sorted(topics):
        split, paragraphs = _split(name), topics[name].split("\n\n")
        if split == "train":
            paragraphs = [paragraph for paragraph in paragraphs if paragraph not in held_out]
        yield "manual", split, "\n\n".join(paragraphs)
    for split, count in (("train", 600), ("validation", 60)):
        asked = [example for name in sorted(SKILLS) for example in examples(name, split, count)]
        Random(split).shuffle(asked)
        yield "skills", split, "\n".join(f"{example.prompt} {example.answer}" for example in asked)


def _split(name: str) -> str:
    return "validation" if hashlib.sha256(name.encode()).digest()[0] % _HELD_OUT == 0 else "train"


@dataclass(frozen=True)
class Corpus:
    """Token ids of every domain.

    Attributes:
        train, validation: int64 ids by domain.
        digest: a hash of all of it, to tell whether two results read the same text.
    """

    train: dict[str, Tensor]
    validation: dict[str, Tensor]
    digest: str

    def batch(self, step: int, rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
        """The training batch of one step: the same for every recipe.

        Returns:
            (ids [B, S], domain of each row [B]); the domains take turns.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        domain_B = (torch.arange(rows) + step) % len(DOMAINS)
        return torch.stack([self._window(self.train, int(d), length, generator) for d in domain_B]), domain_B

    def validation_rows(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Evenly spaced windows of the validation text: (ids [B, S], domain of each row [B]), `rows` per domain."""
        ids, domains = [], []
        for index, domain in enumerate(DOMAINS):
            text = self.validation[domain]
            starts = torch.linspace(0, len(text) - length, rows).long()
            ids += [text[start : start + length] for start in starts]
            domains += [index] * rows
        return torch.stack(ids), torch.tensor(domains)

    @staticmethod
    def _window(text: dict[str, Tensor], domain: int, length: int, generator: torch.Generator) -> Tensor:
        ids = text[DOMAINS[domain]]
        start = int(torch.randint(0, len(ids) - length, (), generator=generator))
        return ids[start : start + length]


@functools.cache
def corpus() -> Corpus:
    """Reads, splits and tokenises the text; a few seconds, once per process."""
    texts = {domain: {"train": "", "validation": ""} for domain in DOMAINS}
    for domain, split, text in _documents():
        texts[domain][split] += text + "\n"
    for parts in texts.values():
        parts["train"] = parts["train"][:_CHARACTERS]
    tokenizer = _tokenizer([parts["train"] for parts in texts.values()])
    ids = {
        split: {domain: torch.tensor(tokenizer.encode(parts[split]).ids) for domain, parts in texts.items()}
        for split in ("train", "validation")
    }
    digest = hashlib.sha256("".join(t for parts in texts.values() for t in parts.values()).encode()).hexdigest()
    return Corpus(ids["train"], ids["validation"], digest[:16])


def _tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE of the training text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
