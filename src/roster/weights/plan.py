"""The plan of a run: every output tensor, its shard and its operands, checked on headers before a weight is read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roster.errors import RosterError
from roster.header import Spec
from roster.weights.rule import Operand, Output
from roster.weights.source import Source
from roster.weights.views import Views

MAX_SHARD = 5_000_000_000
PAGE = 4096
"""Bytes; tensors begin at multiples of it where they can."""
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Plan:
    """What will be done, without doing it.

    Attributes:
        shards: the outputs of each file, in the order in which they lie there.
        files: what goes into the folder besides the tensors: name to content, or to a file that is copied.
        unused: (source, tensor) that no output needs, each with nothing lost silently.
        title: what the run is called in reports.
        stem: of the files' names, where an output names no other.
    """

    shards: tuple[tuple[Output, ...], ...]
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    unused: tuple[tuple[str, str], ...] = ()
    title: str = "weights"
    stem: str = "model"

    @property
    def outputs(self) -> tuple[Output, ...]:
        """All of them, in the order of writing."""
        return tuple(output for shard in self.shards for output in shard)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of one look at every operand; a kernel that looks more than once reads them again."""
        return sum(operand.spec.nbytes for output in self.outputs for operand in output.operands)

    @property
    def bytes_to_write(self) -> int:
        """Bytes of all output tensors."""
        return sum(output.spec.nbytes for output in self.outputs)

    def shard_name(self, number: int) -> str:
        """As transformers names them, in the folder of their checkpoint."""
        stem = self.stem_of(number)
        alike = [each for each in range(len(self.shards)) if self.stem_of(each) == stem]
        place = f"-{alike.index(number) + 1:05d}-of-{len(alike):05d}" if len(alike) > 1 else ""
        return f"{stem}{place}.safetensors"

    def stem_of(self, number: int) -> str:
        """Which checkpoint a file belongs to."""
        return self.shards[number][0].stem or self.stem

    def fingerprint(self) -> str:
        """Of everything that the result depends on: a half-done run goes on only under the same one."""
        digest = hashlib.sha256()
        sources: dict[int, Source] = {}
        for shard in self.shards:
            digest.update(b"shard")
            for output in shard:
                operands = [(id(operand.source), operand.tensor) for operand in output.operands]
                sources.update({id(operand.source): operand.source for operand in output.operands})
                order = {each: number for number, each in enumerate(sources)}
                named = [(order[source], tensor) for source, tensor in operands]
                digest.update(repr((output.key, output.spec, named, output.kernel)).encode())
        for source in sources.values():
            digest.update(source.fingerprint().encode())
        return digest.hexdigest()

    def text(self, every: bool = True) -> str:
        """For people: what is read, what is written where, what is left out."""
        lines = [
            f"{self.title}: {len(self.outputs)} tensors into {len(self.shards)} file(s), reads "
            f"{self.bytes_to_read:,} bytes a look, writes {self.bytes_to_write:,} bytes"
        ]
        for number, shard in enumerate(self.shards):
            lines.append(f"  {self.shard_name(number)}: {sum(each.spec.nbytes for each in shard):,} bytes")
            for output in shard if every else ():
                operands = ", ".join(_operand(output, operand) for operand in output.operands)
                lines.append(f"    {output.name}  {output.spec}  {type(output.kernel).__name__}({operands})")
        lines += [f"  unused: {tensor} of {source}" for source, tensor in self.unused]
        return "\n".join(lines)


def _operand(output: Output, operand: Operand) -> str:
    return operand.source.name if operand.tensor == output.name else f"{operand.source.name}:{operand.tensor}"


def make_plan(
    outputs: Iterable[Output],
    sources: Sequence[Source],
    files: Mapping[str, bytes | Path] | None = None,
    max_shard: int = MAX_SHARD,
    title: str = "weights",
    stem: str = "model",
) -> Plan:
    """Checks the outputs, finds what is unused and lays out the shards.

    Args:
        outputs: in the order in which they should be written; the order of the files read is the quickest.
        sources: all of them, so that a tensor that nothing needs is named.
        files: what goes into the folder besides the tensors.
        max_shard: bytes of one file; a tensor larger than that has a file of its own.
        title: what the run is called in reports.
        stem: of the files' names, where an output names no other.

    Raises:
        RosterError: a name twice, no outputs, an operand of another shape than its output, or a kernel that two
            outputs share.
    """
    outputs = list(outputs)
    if not outputs:
        raise RosterError(f"{title}: there is nothing to write: no tensor came out of the plan")
    _check(outputs, title)
    operands = [operand for output in outputs for operand in output.operands]
    used = {(id(operand.source), operand.tensor) for operand in operands}
    for view in {id(each.source): each.source for each in operands if isinstance(each.source, Views)}.values():
        used |= view.used()
    unused = [(each.name, tensor) for each in sources for tensor in each.specs if (id(each), tensor) not in used]
    return Plan(_shards(outputs, max_shard), dict(files or {}), tuple(unused), title, stem)


def _check(outputs: Sequence[Output], title: str) -> None:
    names: set[str] = set()
    kernels: set[int] = set()
    for output in outputs:
        if output.key in names:
            raise RosterError(f"{title}: two outputs are called {output.key!r}")
        if id(output.kernel) in kernels:
            raise RosterError(f"{title}: the kernel of {output.name!r} is another output's too; make one for each")
        names.add(output.key)
        kernels.add(id(output.kernel))
        for operand in output.operands:
            if operand.spec.shape != output.spec.shape:
                raise RosterError(
                    f"{title}: tensor {operand.tensor!r} of {operand.source.name!r} is {operand.spec}, but "
                    f"{output.name!r} is to be {output.spec}"
                )


def _shards(outputs: Sequence[Output], max_shard: int) -> tuple[tuple[Output, ...], ...]:
    shards: list[list[Output]] = [[]]
    size = 0
    stems = list(dict.fromkeys(output.stem for output in outputs))
    for output in sorted(outputs, key=lambda output: stems.index(output.stem)):
        other = bool(shards[-1]) and shards[-1][-1].stem != output.stem
        if other or (shards[-1] and size + output.spec.nbytes > max_shard):
            shards.append([])
            size = 0
        shards[-1].append(output)
        size += output.spec.nbytes
    # Wide types first, so that every tensor starts at a multiple of its type's size, as readers that map files expect.
    # Then whole pages, so that large tensors start at one: systems write pages more cheaply than what lies across two.
    return tuple(tuple(sorted(shard, key=_alignment)) for shard in shards)


def _alignment(output: Output) -> tuple[int, bool]:
    return -output.spec.dtype.itemsize, output.spec.nbytes % PAGE > 0


def parse_size(text: str) -> int:
    """`"500MB"` -> 500,000,000; KB, MB, GB are decimal, KiB, MiB, GiB binary."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS or float(match[1]) == 0:
        raise RosterError(f"{text!r} is not a size; write 500MB, 5GB or 2GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def same_specs(name: str, operands: Sequence[Operand]) -> Spec:
    """The spec that all operands share in shape; of the type of the first.

    Raises:
        RosterError: shapes differ; says so in terms of vocabularies where that is what it looks like.
    """
    first = operands[0]
    for other in operands[1:]:
        if other.spec.shape == first.spec.shape:
            continue
        vocabulary = (
            "; their vocabularies differ, and rows of different words cannot be averaged: merge models of one tokenizer"
            if re.search(r"embed|lm_head|wte", name) and other.spec.shape[1:] == first.spec.shape[1:]
            else ""
        )
        raise RosterError(
            f"tensor {name!r} is {first.spec} in {first.source.name!r}, but {other.spec} in {other.source.name!r}"
            + vocabulary
        )
    return first.spec
