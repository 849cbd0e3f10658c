"""The conversions by name, as `roster convert --to` and the recipes call them: models and data in, a plan out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from roster.convert.btx import plan_btx
from roster.convert.cmoe import plan_cmoe
from roster.convert.dense import Dense, open_dense
from roster.convert.factorllm import plan_factorllm
from roster.convert.gate_modes import plan_gated, read_gate_config
from roster.convert.ladimo import plan_ladimo
from roster.convert.mergeme import plan_mergeme
from roster.convert.nexus import SIDE, plan_append, plan_nexus
from roster.convert.read_me import plan_read_me
from roster.convert.upcycling import plan_upcycling
from roster.convert.upit import plan_upit
from roster.errors import RosterError, nearest
from roster.options import check_options
from roster.weights import MAX_SHARD, Plan, open_checkpoint
from roster.weights.layers import Progress
from roster.weights.texts import LENGTH, ROWS, Texts, read_texts


class Asked:
    """What a conversion is given.

    Attributes:
        to: its name.
        models: folders or hub names.
        data: JSONL files.
        rows, length: of each file at most.
        progress: told of layers done.
        scratch: a folder for what is trained on the way; the caller removes it.
    """

    def __init__(
        self,
        to: str,
        models: Sequence[str],
        data: Sequence[Path] = (),
        rows: int = ROWS,
        length: int = LENGTH,
        progress: Progress | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.to, self.models, self.data = to, models, data
        self.rows, self.length, self.progress, self.scratch = rows, length, progress, scratch

    def one(self) -> Dense:
        """The one model."""
        if len(self.models) != 1:
            raise RosterError(f"{self.to} is made of one model, not of {len(self.models)}; btx takes several")
        return open_dense(self.models[0])

    def texts(self, dense: Dense) -> Texts:
        """Of the one file, or of Python's documentation."""
        if len(self.data) > 1:
            raise RosterError(f"{self.to} reads one --data file, not {len(self.data)}")
        return read_texts(self.data[0] if self.data else None, dense.source.folder, self.rows, self.length)

    def domains(self, dense: Dense) -> list[Texts]:
        """Of each file."""
        return [read_texts(each, dense.source.folder, self.rows, self.length) for each in self.data]

    def no_data(self) -> None:
        """Raises RosterError: there is some, and nothing would read it."""
        if self.data:
            raise RosterError(f"{self.to} reads no --data")


def _upcycling(asked: Asked, **options: Any) -> Plan:
    asked.no_data()
    return plan_upcycling(asked.one(), **options)


def _granular(asked: Asked, **options: Any) -> Plan:
    return _upcycling(asked, **{"shards": 2, "copies": 4, **options})


def _btx(asked: Asked, **options: Any) -> Plan:
    asked.no_data()
    return plan_btx([open_dense(each) for each in asked.models], **options)


def _mergeme(asked: Asked, **options: Any) -> Plan:
    asked.no_data()
    return plan_mergeme([open_dense(each) for each in asked.models], **options)


def _cmoe(asked: Asked, **options: Any) -> Plan:
    dense = asked.one()
    return plan_cmoe(dense, asked.texts(dense), progress=asked.progress, **options)


def _factorllm(asked: Asked, **options: Any) -> Plan:
    dense = asked.one()
    return plan_factorllm(dense, asked.texts(dense), progress=asked.progress, **options)


def _gated(asked: Asked, **options: Any) -> Plan:
    asked.no_data()
    if len(asked.models) != 1 or not Path(asked.models[0]).is_file():
        raise RosterError("mergekit-moe takes one argument, a YAML file as mergekit-moe reads it")
    return plan_gated(read_gate_config(Path(asked.models[0])), **options)


def _read_me(asked: Asked, **options: Any) -> Plan:
    dense = asked.one()
    if len(asked.data) < 2:
        raise RosterError(f"read-me needs a --data file of each of at least two domains, not {len(asked.data)}")
    return plan_read_me(dense, asked.domains(dense), progress=asked.progress, **options)


def _nexus(asked: Asked, **options: Any) -> Plan:
    if asked.models and (Path(asked.models[0]) / SIDE).is_file():
        return _append(asked, **options)
    models = [open_dense(each) for each in asked.models]
    return plan_nexus(models, asked.domains(models[0]), progress=asked.progress, **options)


def _append(asked: Asked, max_shard: int, **options: Any) -> Plan:
    if len(asked.models) != 3 or len(asked.data) != 1 or options:
        raise RosterError("to append an expert, nexus takes: mixture, seed, new model, one --data file, and no options")
    mixture, seed, new = open_checkpoint(asked.models[0]), *(open_dense(each) for each in asked.models[1:])
    return plan_append(mixture, seed, new, asked.texts(seed), max_shard)


def _ladimo(asked: Asked, **options: Any) -> Plan:
    dense = asked.one()
    if asked.scratch is None:
        raise RosterError("ladimo trains before it writes, and keeps trained layers beside the result: give --out")
    return plan_ladimo(dense, asked.texts(dense), asked.scratch, progress=asked.progress, **options)


def _upit(asked: Asked, router: str = "fitted", **options: Any) -> Plan:
    models = [open_dense(each) for each in asked.models]
    texts = asked.texts(models[0]) if router != "random" and models else None
    return plan_upit(models, texts, router=router, progress=asked.progress, **options)


_GIVEN = ("dense", "models", "texts", "domains", "scratch", "config", "max_shard", "progress")
# By name: what makes the plan, and whose arguments its options are.
METHODS: dict[str, tuple[Callable[..., Plan], Callable[..., Plan]]] = {
    "upcycling": (_upcycling, plan_upcycling),
    "nemotron-upcycling": (_granular, plan_upcycling),
    "btx": (_btx, plan_btx),
    "cmoe": (_cmoe, plan_cmoe),
    "factorllm": (_factorllm, plan_factorllm),
    "ladimo": (_ladimo, plan_ladimo),
    "mergeme": (_mergeme, plan_mergeme),
    "nexus": (_nexus, plan_nexus),
    "read-me": (_read_me, plan_read_me),
    "upit": (_upit, plan_upit),
    "mergekit-moe": (_gated, plan_gated),
}


def plan_convert(asked: Asked, options: Mapping[str, Any] | None = None, max_shard: int = MAX_SHARD) -> Plan:
    """The plan of a conversion.

    Args:
        asked: which one, of what.
        options: the conversion's.
        max_shard: bytes of one output file.

    Raises:
        RosterError: an unknown conversion or option, a value of the wrong kind, or what the conversion itself refuses.
    """
    if asked.to not in METHODS:
        raise RosterError(f"unknown method {asked.to!r}: {nearest(asked.to, METHODS)}")
    make, signature = METHODS[asked.to]
    check_options(asked.to, signature, options or {}, _GIVEN)
    return make(asked, **dict(options or {}), max_shard=max_shard)
