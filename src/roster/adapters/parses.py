"""Parses: graphs over the tokens of known sentences, for experts that read them; CoNLL-U is read.

Shape legend: B batch rows, S tokens, D width, T = B * S, Q relations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.experts.graphs import Links

Edge = tuple[int, int, str]
"""(token that reads, token that is read, relation); tokens are counted from the row's first real one."""
_LINKS = "links"
INVERSE = "^-1"


class Parses(nn.Module):
    """Knows the links of rows by their tokens. A row that it does not know has none.

    It stands in the mixture's head; what it knows is data, and is not saved with the model.

    Args:
        relations: names of the Q relations that experts read; edges of others are passed over.
    """

    def __init__(self, relations: Sequence[str]):
        super().__init__()
        self.relations = {name: q for q, name in enumerate(relations)}
        self.known: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}

    def add(self, ids: Sequence[int], edges: Iterable[Edge]) -> None:
        """Takes in the parse of one row.

        Args:
            ids: its tokens, special ones included, padding not.
            edges: of its parse.

        Raises:
            RosterError: an edge between tokens that are not there.
        """
        found = []
        for reader, read, relation in edges:
            if not (0 <= reader < len(ids) and 0 <= read < len(ids)):
                raise RosterError(f"an edge {(reader, read, relation)} of a row of {len(ids)} tokens leads out of it")
            if relation in self.relations:
                found.append((reader, read, self.relations[relation]))
        self.known[tuple(int(each) for each in ids)] = found

    def links(self, context: Context) -> Links:
        """Of all rows of a call, per relation; places are those of flattened tokens."""
        if _LINKS not in context.memory:
            context.memory[_LINKS] = self._links(context)
        links: Links = context.memory[_LINKS]
        return links

    def _links(self, context: Context) -> Links:
        ids_BS, mask_BS = context.input_ids_BS, context.mask_BS
        places: list[list[tuple[int, int]]] = [[] for _ in self.relations]
        # Parses lie on the host, so ids are taken there; once a call, and only where there are any.
        rows = [] if ids_BS is None or not self.known else ids_BS.tolist()
        masks = None if mask_BS is None or not rows else mask_BS.tolist()
        for row, ids in enumerate(rows):
            real = [at for at in range(context.length) if masks is None or masks[row][at]]
            for reader, read, q in self.known.get(tuple(ids[at] for at in real), ()):
                places[q].append((row * context.length + real[reader], row * context.length + real[read]))
        device = "cpu" if ids_BS is None else ids_BS.device
        tables = (torch.tensor(each, dtype=torch.long, device=device).view(-1, 2) for each in places)
        return [(table[:, 0], table[:, 1]) for table in tables]

    def forward(self, hidden_BSD: Tensor, context: Context) -> Tensor:
        """As a head it changes nothing: layers ask it for the links."""
        return hidden_BSD


def read_conllu(text: str, tokenizer: Any) -> Iterator[tuple[list[int], list[Edge]]]:
    """(token ids, edges) of every sentence of a CoNLL-U text, for `Parses.add`.

    A word stands for its first piece. A dependent reads its head by the relation's name ("nsubj"), the head its
    dependent by the name with "^-1" behind it.

    Args:
        text: the file's content.
        tokenizer: a fast one of transformers.

    Raises:
        RosterError: a line that is none of CoNLL-U.
    """
    for number, block in enumerate(text.strip().split("\n\n"), 1):
        words, arcs = [], []
        for line in block.splitlines():
            fields = line.split("\t")
            if line.startswith("#") or "-" in fields[0] or "." in fields[0]:
                continue  # comments, words written together, and words that are not there
            if len(fields) != 10 or not fields[0].isdecimal() or not fields[6].isdecimal():
                raise RosterError(f"sentence {number}: {line!r} is no line of CoNLL-U")
            words.append(fields[1])
            arcs.append((int(fields[0]) - 1, int(fields[6]) - 1, fields[7]))
        encoded = tokenizer(words, is_split_into_words=True)
        first: dict[int, int] = {}
        for place, word in enumerate(encoded.word_ids()):
            if word is not None:
                first.setdefault(word, place)
        edges: list[Edge] = []
        for word, head, relation in arcs:
            if head in first and word in first:
                edges += [(first[word], first[head], relation), (first[head], first[word], relation + INVERSE)]
        yield list(encoded["input_ids"]), edges
