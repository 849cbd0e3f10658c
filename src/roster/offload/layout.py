"""Where the bytes of each expert lie in a checkpoint, and how they lie in a slot.

What transformers would make of a checkpoint while it loads it (experts stacked, matrices joined) is read off its own
conversion table, so that every architecture that it loads is served without a name of its own here. Only what is a
plain sequence of bytes can be read by offset: whole slices of a stacked tensor, and matrices that are laid one after
the other. Not covered: quantised checkpoints, and tables that transpose or interleave.

Shape legend: E experts, D model width, F expert width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from roster.errors import RosterError
from roster.header import Place, Spec
from roster.offload.int8 import held_bytes, numbers, restored

ALIGNED = 64
"""Bytes: parts of a slot start at multiples of it, as torch's own tensors do; kernels may round differently elsewhere.
"""

Key = tuple[int, int]
"""(number of the block in the order of the layers, number of the expert in it)."""


@dataclass(frozen=True)
class Piece:
    """Bytes that lie together, in the file and in the expert's tensor.

    Attributes:
        file, offset: where they are read.
        spec: their type as stored, and how many there are.
        at: the element of the expert's tensor that they begin with.
    """

    file: Path
    offset: int
    spec: Spec
    at: int


@dataclass(frozen=True)
class Part:
    """One tensor of each expert of a block.

    Attributes:
        name: of the parameter of the block's experts.
        spec: of one expert's share.
        pieces: of each expert.
        start: bytes from the start of a slot.
        int8: whether it is held as whole numbers of 8 bits (see `roster.offload.int8`).
    """

    name: str
    spec: Spec
    pieces: tuple[tuple[Piece, ...], ...]
    start: int
    int8: bool = False

    @property
    def nbytes(self) -> int:
        """Of its share of a slot."""
        return held_bytes(self.spec.shape[0], self.spec.numel) if self.int8 else self.spec.nbytes

    def bytes_in(self, slot: Tensor) -> Tensor:
        """Its share of a slot."""
        return slot[self.start : self.start + self.nbytes]

    def view(self, share: Tensor) -> Tensor:
        """The tensor that lies in those bytes; what they stand for, where they are 8-bit numbers."""
        if self.int8:
            return restored(*numbers(share, self.spec.shape), self.spec.dtype)
        return share.view(self.spec.dtype).view(self.spec.shape)


@dataclass(frozen=True)
class Site:
    """The experts of one block.

    Attributes:
        name: of the module that holds them.
        parts: what each of them is made of.
        num_experts: E.
    """

    name: str
    parts: tuple[Part, ...]
    num_experts: int

    @property
    def nbytes(self) -> int:
        """Of one expert in a slot."""
        last = self.parts[-1]
        return _aligned(last.start + last.nbytes)


@dataclass(frozen=True)
class Layout:
    """All experts of a checkpoint.

    Attributes:
        sites: the blocks, in the order of the layers.
        stored: names of the tensors of the checkpoint that belong to experts.
    """

    sites: tuple[Site, ...]
    stored: frozenset[str]

    @property
    def slot_bytes(self) -> int:
        """What any expert fits into."""
        return max(site.nbytes for site in self.sites)

    @property
    def part_bytes(self) -> int:
        """Of the largest part."""
        return max(part.nbytes for site in self.sites for part in site.parts)

    @property
    def count(self) -> int:
        """How many experts there are in all blocks."""
        return sum(site.num_experts for site in self.sites)


def expert_parameters(model: nn.Module, sites: Sequence[str]) -> dict[str, dict[str, Spec]]:
    """Of every block of experts the parameters that are worth a slot: a matrix per expert. Biases stay resident.

    Raises:
        RosterError: experts that are modules of their own, which transformers does not stack.
    """
    found: dict[str, dict[str, Spec]] = {}
    for name in sites:
        experts = model.get_submodule(name)
        stacked = {each: p for each, p in experts.named_parameters(recurse=False) if p.dim() == 3}
        if len({len(parameter) for parameter in stacked.values()}) != 1:
            raise RosterError(f"the experts of {name!r} are not stacked, expert by expert: they cannot be offloaded")
        found[name] = {each: Spec(p.dtype, tuple(p.shape)) for each, p in stacked.items()}
    return found


def lay_out(
    model: PreTrainedModel,
    places: Mapping[str, Place],
    experts: Mapping[str, Mapping[str, Spec]],
    where: str,
    int8: bool = False,
) -> Layout:
    """Finds every expert of a model in its checkpoint.

    Args:
        model: the whole model, without weights (on the meta device).
        places: of the checkpoint's tensors.
        experts: as `expert_parameters` gives them, with the types that the loaded model has.
        where: the checkpoint, for messages.
        int8: whether experts are held as 8-bit numbers.

    Raises:
        RosterError: an expert is missing, or stored in a way that is no plain sequence of bytes.
    """
    targets = {f"{site}.{name}": spec for site, specs in experts.items() for name, spec in specs.items()}
    sources = stored_as(model, places, targets)
    sites = []
    for site, specs in experts.items():
        parts, start = [], 0
        for name, spec in specs.items():
            one = Spec(spec.dtype, spec.shape[1:])
            pieces = _pieces(sources.get(f"{site}.{name}"), spec, f"{where}: {site}.{name}")
            parts.append(Part(name, one, pieces, start, int8))
            start = _aligned(start + parts[-1].nbytes)
        sites.append(Site(site, tuple(parts), next(iter(specs.values())).shape[0]))
    stored = frozenset(name for target in sources.values() for names in target.by_pattern for name, _ in names)
    return Layout(tuple(sites), stored)


@dataclass
class Stored:
    """What is stored for one parameter: by the converter's source patterns, and within one by expert.

    Attributes:
        converter: what makes the parameter of it; None where it is stored as it is.
        by_pattern: (name, place) of the stored tensors.
    """

    converter: WeightConverter | None
    by_pattern: list[list[tuple[str, Place]]]


def stored_as(model: PreTrainedModel, places: Mapping[str, Place], targets: Mapping[str, Spec]) -> dict[str, Stored]:
    """What a checkpoint holds for parameters of a model, under the names that transformers would find them by.

    Args:
        model: without weights.
        places: of the checkpoint's tensors.
        targets: the parameters by name; those that are not found are left out.
    """
    table = get_model_conversion_mapping(model)
    renamings = [each for each in table if isinstance(each, WeightRenaming)]
    converters = [each for each in table if isinstance(each, WeightConverter)]
    of_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    state = model.state_dict()
    found: dict[str, Stored] = {}
    # In the order in which transformers collects experts into a stack.
    for name in sorted(places, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target not in state and name in state:
            target, pattern = name, None
        if target not in targets:
            continue
        converter = None if pattern is None else of_pattern[pattern]
        count = 1 if converter is None else len(converter.source_patterns)
        entry = found.setdefault(target, Stored(converter, [[] for _ in range(count)]))
        index = 0 if converter is None or pattern is None else converter.source_patterns.index(pattern)
        entry.by_pattern[index].append((name, places[name]))
    return found


def _pieces(target: Stored | None, spec: Spec, where: str) -> tuple[tuple[Piece, ...], ...]:
    if target is None:
        raise RosterError(f"{where} is not in the checkpoint under any name that transformers knows")
    count, each = spec.shape[0], spec.numel // spec.shape[0]
    if target.converter is None:
        name, place = target.by_pattern[0][0]
        if place.spec.shape != spec.shape:
            raise RosterError(f"{where} is {spec}, but {name!r} is stored as {place.spec}")
        size = place.spec.dtype.itemsize
        flat = Spec(place.spec.dtype, (each,))
        return tuple((Piece(place.file, place.offset + e * each * size, flat, 0),) for e in range(count))
    operations = [(type(op), getattr(op, "dim", None)) for op in target.converter.operations]
    if operations not in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
        kinds = ", ".join(kind.__name__ for kind, _ in operations)
        raise RosterError(
            f"{where} is stored in a way that roster does not read by offset ({kinds}): save the model anew with "
            "transformers' save_pretrained(save_original_format=False), which stores experts as the model holds them"
        )
    pieces: dict[int, list[Piece]] = defaultdict(list)
    for stored in target.by_pattern:
        if len(stored) != count:
            raise RosterError(f"{where} has {count} experts; the checkpoint holds {len(stored)} of them")
        for e, (_, place) in enumerate(stored):
            at = sum(piece.spec.numel for piece in pieces[e])
            flat = Spec(place.spec.dtype, (place.spec.numel,))
            if place.spec.shape[1:] != spec.shape[2:] or not flat.dtype.is_floating_point:
                raise RosterError(f"{where} has experts of {list(spec.shape[1:])}, but one is stored as {place.spec}")
            pieces[e].append(Piece(place.file, place.offset, flat, at))
    if any(sum(piece.spec.numel for piece in own) != each for own in pieces.values()):
        raise RosterError(f"{where} has experts of {each:,} numbers; the checkpoint's are of another size")
    return tuple(tuple(pieces[e]) for e in range(count))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNED) * ALIGNED


def resident_bytes(layout: Layout, places: Mapping[str, Place], dtype: torch.dtype | None) -> int:
    """What of a checkpoint stays in memory: all tensors that are no expert's, in the type that the model will have."""
    rest = (place.spec for name, place in places.items() if name not in layout.stored)
    return sum(
        spec.nbytes if dtype is None or not spec.dtype.is_floating_point else spec.numel * dtype.itemsize
        for spec in rest
    )
