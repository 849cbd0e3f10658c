"""Carrying out a plan: piece by piece, tensor after tensor, and the same kernels on tensors in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roster.allocator import keep_pieces
from roster.errors import RosterError
from roster.weights.figures import Figures
from roster.weights.plan import Plan
from roster.weights.rule import BLOCK, Copy, Kernel, Operand, Output, block_of
from roster.weights.source import Checkpoint
from roster.weights.writer import Writer

PIECE = 2 * BLOCK
"""Elements of one operand that are in memory at a time: few enough for a core's cache."""

_COPIED = 8
"""Pieces that are copied in one go: nothing is computed, and systems write large pieces more cheaply."""

_SUMMED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Types in which a value that is not finite is looked for."""

Progress = Callable[[int, int, str], None]
"""Called with the bytes written so far, all bytes to write, and the tensor that was finished."""


def run(
    plan: Plan,
    out: Path | str,
    *,
    overwrite: bool = False,
    piece: int = PIECE,
    progress: Progress | None = None,
    watch: Callable[[Output], Figures | None] | None = None,
    report: Callable[[dict[str, dict[str, Any]]], dict[str, bytes]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Writes the checkpoint that a plan describes; takes up an earlier run of the same plan that was killed.

    Args:
        plan: what to do.
        out: the folder to write.
        overwrite: whether a folder that is there is replaced, once the new one is whole.
        piece: elements of an operand in memory at a time, a multiple of `BLOCK`; changes speed and memory, no bit.
        progress: told after each tensor.
        watch: what looks at a tensor while it is written; its figures are reported with the kernel's.
        report: makes more files for the folder from the kernels' figures.

    Returns:
        The kernels' figures by tensor (its key).

    Raises:
        RosterError: see `Writer`; a weight that is not finite; a source that changed under the run.
    """
    if piece < BLOCK or piece % BLOCK:
        raise RosterError(f"piece={piece} must be a multiple of {BLOCK}")
    keep_pieces()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # memory-bound work: a second thread waits for the same memory, and for the first thread
    try:
        with Writer(plan, Path(out), overwrite) as writer, torch.no_grad():
            todo = [output for output in plan.outputs if output.key not in writer.done]
            written = sum(output.spec.nbytes for output in plan.outputs if output.key in writer.done)
            if todo:
                _survey(plan, piece)
            for together in _copies(todo):
                if type(together[0].kernel) is Copy:
                    _copy(together, writer, piece)
                else:
                    _compute(together[0], writer, piece, watch(together[0]) if watch is not None else None)
                for output in together:
                    written += output.spec.nbytes
                    if progress is not None:
                        progress(written, plan.bytes_to_write, output.key)
            figures = {output.key: writer.done[output.key] for output in plan.outputs}
            writer.finish(report(figures) if report is not None else None)
            return figures
    finally:
        torch.set_num_threads(threads)


def apply(kernel: Kernel, tensors: Sequence[Tensor]) -> Tensor:
    """A kernel on tensors in memory, all in one piece: the same values as from disk, float32 (or float64).

    Args:
        kernel: a fresh one.
        tensors: its operands, of one shape.
    """
    x = [_float(tensor.detach().flatten().clone(), _wide(tensors)) for tensor in tensors]
    shape = tuple(tensors[0].shape)
    while kernel.wants_survey():
        kernel.survey(x, 0)
        kernel.end_survey()
    kernel.begin(shape)
    while kernel.wants_look():
        kernel.look(x, 0)
        kernel.end_look()
    result = kernel.write(x, 0).view(shape)
    kernel.end()
    return result


def pieces(output: Output, piece: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of the pieces of an output: multiples of the piece, or of what the kernel needs together."""
    unit = output.kernel.unit(output.spec.shape)
    step = piece // BLOCK * block_of(unit)
    for start in range(0, output.spec.numel, step):
        yield start, min(start + step, output.spec.numel)


def _survey(plan: Plan, piece: int) -> None:
    surveyors = [output for output in plan.outputs if output.kernel.surveys]
    while any(output.kernel.wants_survey() for output in surveyors):
        for output in surveyors:
            for start, stop in pieces(output, piece):
                output.kernel.survey(_read(output, start, stop), start)
        # Kernels of one run share what they learn, so one of them closes the look for all.
        surveyors[0].kernel.end_survey()


def _copies(outputs: Sequence[Output]) -> list[list[Output]]:
    """The outputs in their order; those that are copies of one tensor together, where its first one stands."""
    found: dict[object, list[Output]] = {}
    for output in outputs:
        key: object = id(output)
        if type(output.kernel) is Copy:
            operand = output.operands[0]
            key = (id(operand.source), operand.tensor, output.spec)
        found.setdefault(key, []).append(output)
    return list(found.values())


def _copy(outputs: Sequence[Output], writer: Writer, piece: int) -> None:
    """Reads once what several outputs hold."""
    names = [output.key for output in outputs]
    spec, operand = outputs[0].spec, outputs[0].operands[0]
    source = operand.source if operand.spec.dtype == spec.dtype else None
    again = torch.empty(min(_COPIED * piece, spec.numel) if isinstance(source, Checkpoint) else 0, dtype=spec.dtype)
    for start, stop in pieces(outputs[0], _COPIED * piece):
        if isinstance(source, Checkpoint):
            read = again[: stop - start]
            source.fill(read, operand.tensor, start)
        else:
            read = _read(outputs[0], start, stop)[0].to(spec.dtype)
        _check_finite(read, outputs[0], writer)
        writer.write_each(names, start, read)
    for name in names:
        writer.finish_tensor(name, {})


def _compute(output: Output, writer: Writer, piece: int, figures: Figures | None) -> None:
    kernel = output.kernel
    kernel.counts = figures is not None
    kernel.begin(output.spec.shape)
    while kernel.wants_look():
        for start, stop in pieces(output, piece):
            kernel.look(_read(output, start, stop), start)
        kernel.end_look()
    for start, stop in pieces(output, piece):
        x = _read(output, start, stop)
        if figures is not None:
            figures.before(x, start)
        result = kernel.write(x, start)
        if not kernel.raw:
            _check_finite(result, output, writer)
        stored = result.to(output.spec.dtype)
        if figures is not None:
            figures.after(stored, start)
        writer.write(output.key, start, stored)
    writer.finish_tensor(output.key, kernel.end() | (figures.end() if figures is not None else {}))


def _read(output: Output, start: int, stop: int) -> list[Tensor]:
    raw = [operand.source.read(operand.tensor, start, stop) for operand in output.operands]
    return raw if output.kernel.raw else [_float(each, _wide(raw)) for each in raw]


def _wide(tensors: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if torch.float64 in [each.dtype for each in tensors] else torch.float32


def _float(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


def _check_finite(result: Tensor, output: Output, writer: Writer) -> None:
    # A NaN or an infinity anywhere makes the sum so, and a sum is quick; finite numbers may overflow it, though.
    if result.dtype not in _SUMMED or math.isfinite(result.sum().item()) or result.isfinite().all():
        return
    writer.discard()
    culprit = next((each for each in output.operands if not _finite(each)), None)
    where = f"{culprit.tensor!r} of {culprit.source.name!r} holds" if culprit else f"{output.name!r} came out with"
    raise RosterError(f"tensor {where} values that are not finite (NaN or infinity); nothing was put in place")


def _finite(operand: Operand) -> bool:
    size = operand.spec.numel
    cuts = range(0, size, PIECE)
    return all(bool(operand.source.read(operand.tensor, i, min(i + PIECE, size)).isfinite().all()) for i in cuts)
