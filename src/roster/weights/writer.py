"""Writing a sharded checkpoint piece by piece into a folder beside the final one, and the swap that puts it in place.

A killed run leaves the staging folder `.NAME.partial` with a journal of finished tensors; the same run started again
goes on there. After a restart of the machine the journal is not trusted, for the bytes that it vouches for may never
have reached the disk. Whoever reads the final folder sees the old one or the new one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roster.errors import RosterError
from roster.header import CODES
from roster.weights.plan import PAGE, Plan

JOURNAL = ".roster-journal"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Writer:
    """The staging folder of one plan. A context manager: leaving it closes the files, and keeps them for a resume.

    Attributes:
        done: what the journal of an earlier, killed run says is finished: figures by the tensor's name.
    """

    def __init__(self, plan: Plan, out: Path, overwrite: bool = False) -> None:
        """Raises RosterError: `out` is there, another run writes it, or the disk has too little room."""
        self.plan, self.out = plan, out
        self.staging = out.with_name(f".{out.name}.partial")
        self._old = out.with_name(f".{out.name}.old")
        self._files: dict[int, int] = {}
        self._where: dict[str, tuple[int, int]] = {}
        self._headers = [self._lay_out(number) for number in range(len(plan.shards))]
        if self._old.exists() and not out.exists():
            self._old.rename(out)  # a kill between the two renames of a swap
        if out.is_dir():
            (out / JOURNAL).unlink(missing_ok=True)  # a kill between the last rename and what follows it
        if out.exists() and not overwrite:
            raise RosterError(f"{str(out)!r} is there already; choose another folder, or give --overwrite")
        if out.exists() and not out.is_dir():
            raise RosterError(f"{str(out)!r} is a file, not a folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        self.done = self._take_up()
        self._check_room()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (*self._files.values(), self._journal):
            os.close(opened)
        self._files.clear()

    def write(self, name: str, start: int, piece: Tensor) -> None:
        """Elements from `start` on of a flat tensor, in its final type."""
        self.write_each((name,), start, piece)

    def write_each(self, names: Sequence[str], start: int, piece: Tensor) -> None:
        """The same elements of several tensors."""
        whole = piece.view(torch.uint8).numpy().data if piece.numel() else memoryview(b"")
        try:
            for name in names:
                shard, offset = self._where[name]
                view, at = whole, offset + start * piece.dtype.itemsize
                while view:
                    written = os.pwrite(self._file(shard), view, at)
                    view, at = view[written:], at + written
        except OSError as error:
            raise RosterError(
                f"{str(self.staging)!r} cannot be written: {error.strerror}; what is finished is kept, the same "
                "command goes on from there"
            ) from None

    def discard(self) -> None:
        """Deletes what was written: the run cannot be finished, however often it is started."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def finish_tensor(self, name: str, figures: dict[str, Any]) -> None:
        """All of its pieces are written; a killed run will not compute it again."""
        line = json.dumps({"name": name, "figures": figures}) + "\n"
        os.write(self._journal, line.encode())
        self.done[name] = figures

    def finish(self, extra: dict[str, bytes] | None = None) -> None:
        """Writes the index and the other files, makes all of it durable and swaps the folder in."""
        for number in range(len(self.plan.shards)):
            os.fsync(self._file(number))
        for name, content in {**self.plan.files, **(extra or {})}.items():
            (self.staging / name).parent.mkdir(parents=True, exist_ok=True)
            (self.staging / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        for stem, numbers in self._checkpoints().items():
            if len(numbers) > 1:
                (self.staging / f"{stem}.safetensors.index.json").write_text(
                    json.dumps(self._index(numbers), indent=2) + "\n", encoding="utf-8"
                )
        if self.out.exists():
            shutil.rmtree(self._old, ignore_errors=True)
            self.out.rename(self._old)
        self.staging.rename(self.out)
        (self.out / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(self._old, ignore_errors=True)

    def _checkpoints(self) -> dict[str, list[int]]:
        """The files of each, by stem."""
        found: dict[str, list[int]] = {}
        for number in range(len(self.plan.shards)):
            found.setdefault(self.plan.stem_of(number), []).append(number)
        return found

    def _index(self, numbers: Sequence[int]) -> dict[str, Any]:
        where = {e.name: Path(self.plan.shard_name(i)).name for i in numbers for e in self.plan.shards[i]}
        size = sum(each.spec.nbytes for number in numbers for each in self.plan.shards[number])
        return {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}

    def _lay_out(self, number: int) -> bytes:
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for output in self.plan.shards[number]:
            end = offset + output.spec.nbytes
            entries[output.name] = {
                "dtype": CODES[output.spec.dtype],
                "shape": list(output.spec.shape),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % PAGE)
        start = 8 + len(text)
        for output in self.plan.shards[number]:
            self._where[output.key] = (number, start + entries[output.name]["data_offsets"][0])
        return len(text).to_bytes(8, "little") + text

    def _take_up(self) -> dict[str, dict[str, Any]]:
        """Opens the journal, and empties the folder where it belongs to another run."""
        self.staging.mkdir(exist_ok=True)
        self._journal = os.open(self.staging / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._journal)
            raise RosterError(f"another run is writing {str(self.out)!r}; wait for it, or give another --out") from None
        first = json.dumps({"plan": self.plan.fingerprint(), "boot": _boot()})
        lines = (self.staging / JOURNAL).read_text(encoding="utf-8").split("\n")
        if lines[0] != first or _boot() is None:
            for each in self.staging.iterdir():
                if each.name != JOURNAL:
                    shutil.rmtree(each) if each.is_dir() else each.unlink()
            os.ftruncate(self._journal, 0)
            os.write(self._journal, (first + "\n").encode())
            return {}
        # The last element is what follows the last line's end: nothing, or a line that a kill cut short.
        whole = "".join(line + "\n" for line in lines[:-1])
        os.ftruncate(self._journal, len(whole.encode()))
        records = [json.loads(line) for line in lines[1:-1]]
        return {record["name"]: record["figures"] for record in records}

    def _check_room(self) -> None:
        there = sum(each.stat().st_blocks * 512 for each in self.staging.rglob("*.safetensors"))
        needed = self.plan.bytes_to_write + sum(map(len, self._headers)) - there
        free = shutil.disk_usage(self.staging).free
        if needed > free:
            self.__exit__()
            if not self.done:
                shutil.rmtree(self.staging)
            raise RosterError(f"{str(self.out)!r} needs {needed:,} bytes of disk, but {free:,} are free")

    def _file(self, number: int) -> int:
        if number not in self._files:
            path = self.staging / self.plan.shard_name(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            header = self._headers[number]
            opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            os.pwrite(opened, header, 0)
            os.ftruncate(opened, len(header) + sum(output.spec.nbytes for output in self.plan.shards[number]))
            self._files[number] = opened
        return self._files[number]


def _boot() -> str | None:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return None
