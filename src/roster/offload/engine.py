"""The cache at work: slots in memory, threads that fill them, and the layer that waits for what it needs.

One lock guards the bookkeeping (`Residency`), the queues and the counts; reading happens outside of it. What a layer
needs goes before what is read ahead, and a layer that would have to wait for work that nobody has begun does it itself.

Experts for which there is no slot are streamed: read part by part into a few buffers, in the order in which the layer
uses them, and not kept. So any number of experts can be on duty, with any number of slots.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from roster.errors import RosterError
from roster.offload.layout import Key, Layout
from roster.offload.predicting import Moment, Votes, ranked
from roster.offload.source import Source
from roster.offload.statistics import LayerStatistics, Statistics
from roster.offload.strategy import Run

BUFFERS = 3
"""For streaming: one is computed with, one is filled, one is full."""


class _Job:
    """Parts of one expert that are read together.

    Attributes:
        key: the expert.
        memory: what holds them.
        parts: number of each part, and its bytes in that memory.
        ahead: read before it was needed, and not needed yet.
        state: "queued", "reading", "ready" or "failed".
        error: why it failed.
        free_at: on a GPU, when the work with what was in the memory before is done.
    """

    __slots__ = ("ahead", "error", "free_at", "key", "memory", "parts", "state")

    def __init__(self, key: Key, memory: Tensor, parts: Sequence[tuple[int, Tensor]], ahead: bool) -> None:
        self.key, self.memory, self.parts, self.ahead = key, memory, parts, ahead
        self.state = "queued"
        self.error: BaseException | None = None
        self.free_at: torch.cuda.Event | None = None


class Engine:
    """Holds experts in slots and hands out their tensors.

    Args:
        layout: of the checkpoint.
        source: what fills memory.
        run: who is held, and what is foretold.
        device: of the slots.
        threads: that read.
    """

    def __init__(self, layout: Layout, source: Source, run: Run, device: torch.device, threads: int = 3) -> None:
        self.layout, self.source, self.run, self.device = layout, source, run, device
        self.calls = threading.RLock()  # held by whoever calls a layer: one at a time
        self.statistics = Statistics([LayerStatistics() for _ in layout.sites])
        self._free = [self._memory(layout.slot_bytes) for _ in range(run.residency.shares.total)]
        self._buffers = [self._memory(layout.part_bytes) for _ in range(BUFFERS)]
        self._held: dict[Key, _Job] = {}
        self._needed: set[Key] = set()
        self._moving: set[Key] = set()
        self._streams: dict[tuple[Key, int], _Job] = {}
        self._to_stream: deque[tuple[Key, int]] = deque()
        self._lent: _Job | None = None
        self._urgent: deque[_Job] = deque()
        self._later: deque[_Job] = deque()
        self._busy: dict[int, torch.cuda.Event] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()
        self.read_ahead(sorted(run.residency.pinned))

    # ---- a layer -------------------------------------------------------------------------------------------

    def start(self, ids_BS: Sequence[Sequence[int]], new: bool) -> None:
        """A forward call of the model begins."""
        if self.run.predictor is not None:
            self.read_ahead(self.run.predictor.start(ids_BS, new))

    def need(self, layer: int, votes: Votes, order: Sequence[str], next_gate: Callable[[], Votes] | None) -> list[int]:
        """A layer has decided.

        Args:
            layer: its number.
            votes: its tokens by expert.
            order: how it will go through what is streamed: "experts" (all parts of one, then of the next) or "parts".
            next_gate: see `predicting.Moment`.

        Returns:
            Its experts, those first that are there.
        """
        residency = self.run.residency
        with self._wake:
            if self._closed:
                raise RosterError("the model's cache of experts was closed: load the model again")
            counts = self.statistics.layers[layer]
            self._needed = {(layer, expert) for expert in votes}
            self._forget_guesses(layer)
            missing = []
            for expert in ranked(votes):
                key = (layer, expert)
                job = self._held.get(key)
                if job is None:
                    missing.append(key)
                    continue
                counts.hits += job.state == "ready"
                counts.late += job.state != "ready"
                counts.useful += job.ahead
                job.ahead = False
                residency.hit(key)
                if job.state == "queued" and job in self._later:
                    self._later.remove(job)
                    self._urgent.append(job)
            counts.misses += len(missing)
            streamed = [key for key in missing if not self._place(key, self._needed | self._moving)]
            counts.streamed += len(streamed)
            parts = range(len(self.layout.sites[layer].parts))
            streamed.sort()
            by_expert = [(key, part) for key in streamed for part in parts]
            self._to_stream.extend(by_expert if order == "experts" else sorted(by_expert, key=lambda each: each[1]))
            self._stream_on()
            there = [e for e in votes if (job := self._held.get((layer, e))) is not None and job.state == "ready"]
            coming = [e for e in votes if (layer, e) in self._held and e not in there]
        if self.run.predictor is not None:
            self.read_ahead(self.run.predictor.after(Moment(layer, votes, next_gate)))
        return [*sorted(there), *sorted(coming), *(expert for _, expert in streamed)]

    def part(self, layer: int, expert: int, part: int) -> Tensor:
        """One tensor of an expert that the layer needs; it is the caller's until the next call of `part` or `done`.

        Raises:
            RosterError: it could not be read, or the cache was closed.
        """
        return self.layout.sites[layer].parts[part].view(self.share(layer, expert, part))

    def share(self, layer: int, expert: int, part: int) -> Tensor:
        """The bytes of that tensor, as they are held; as `part`."""
        key = (layer, expert)
        with self._wake:
            self._give_back()
            job = self._held.get(key)
            if job is None:
                job = self._streams.get((key, part)) or self._stream_now(key, part)
            elif job.state == "queued" and job in self._later:
                self._later.remove(job)
                self._urgent.append(job)
        self._await(job, layer)
        self._lent = job
        return next(share for number, share in job.parts if number == part)

    def done(self) -> None:
        """The layer has computed; what it needed may go."""
        with self._wake:
            self._give_back()
            self._needed = set()
            self._to_stream.clear()
            for job in self._streams.values():
                self._drop_stream(job)
            self._streams.clear()

    # ---- reading ahead -------------------------------------------------------------------------------------

    def read_ahead(self, keys: Sequence[Key]) -> None:
        """Begins to read experts that may be needed, as far as there is room that nothing better fills."""
        wanted: set[Key] = set()
        with self._wake:
            for key in keys:
                if key in self._held:
                    wanted.add(key)
                elif self._place(key, self._needed | self._moving | wanted, ahead=True):
                    wanted.add(key)
                    self.statistics.layers[key[0]].ahead += 1

    def settle(self) -> None:
        """Waits until nothing is being read."""
        with self._wake:
            self._wake.wait_for(lambda: not self._moving)

    def close(self) -> None:
        """Ends the threads and lets go of the files; the model cannot be called any more. Once more changes nothing."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():  # the collector may call this from any thread
                thread.join()
        self.source.close()

    # ---- inside, under the lock ----------------------------------------------------------------------------

    def _memory(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def _place(self, key: Key, keep: set[Key], ahead: bool = False) -> bool:
        admitted, gone = self.run.residency.admit(key, keep, ahead)
        if not admitted:
            return False
        memory = self._free.pop() if gone is None else self._held.pop(gone).memory
        parts = self.layout.sites[key[0]].parts
        job = _Job(key, memory, [(number, part.bytes_in(memory)) for number, part in enumerate(parts)], ahead)
        self._held[key] = job
        self._moving.add(key)
        self._enqueue(job, self._later if ahead else self._urgent)
        return True

    def _enqueue(self, job: _Job, queue: deque[_Job]) -> None:
        job.free_at = self._busy.pop(job.memory.data_ptr(), None)
        queue.append(job)
        self._wake.notify()

    def _forget_guesses(self, layer: int) -> None:
        """What was to be read ahead for this layer, is not needed, and was not begun."""
        for job in [each for each in self._later if each.key[0] == layer and each.key not in self._needed]:
            self._later.remove(job)
            self._remove(job)
            self.statistics.layers[layer].ahead -= 1

    def _remove(self, job: _Job) -> None:
        self.run.residency.drop(job.key)
        self._moving.discard(job.key)
        del self._held[job.key]
        self._free.append(job.memory)

    def _stream_on(self) -> None:
        while self._to_stream and self._buffers:
            key, part = self._to_stream.popleft()
            self._streams[key, part] = self._begin_stream(key, part)

    def _begin_stream(self, key: Key, part: int) -> _Job:
        memory = self._buffers.pop()
        nbytes = self.layout.sites[key[0]].parts[part].nbytes
        job = _Job(key, memory, [(part, memory[:nbytes])], ahead=False)
        self._enqueue(job, self._urgent)
        return job

    def _stream_now(self, key: Key, part: int) -> _Job:
        """Out of the foreseen order: what waits in the buffers makes room."""
        if (key, part) in self._to_stream:
            self._to_stream.remove((key, part))
        if not self._buffers:
            other = next(iter(self._streams))
            self._drop_stream(self._streams.pop(other))
            self._to_stream.appendleft(other)
        self._streams[key, part] = self._begin_stream(key, part)
        return self._streams[key, part]

    def _drop_stream(self, job: _Job) -> None:
        if job in self._urgent:
            self._urgent.remove(job)
        else:
            self._wake.wait_for(lambda: job.state in ("ready", "failed"))
        self._buffers.append(job.memory)

    def _give_back(self) -> None:
        job, self._lent = self._lent, None
        if job is None:
            return
        if self.device.type == "cuda":  # the work with it has been asked for, and is not done
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
            self._busy[job.memory.data_ptr()] = event
        streamed = (job.key, job.parts[0][0])
        if self._streams.get(streamed) is job:
            del self._streams[streamed]
            self._buffers.append(job.memory)
            self._stream_on()

    # ---- waiting and working -------------------------------------------------------------------------------

    def _await(self, job: _Job, layer: int) -> None:
        began = None
        with self._wake:
            if job.state != "ready":
                began = time.perf_counter()
            if job.state == "queued":  # nobody is at it: this thread has nothing better to do
                self._urgent.remove(job)
                job.state = "reading"
                mine = True
            else:
                mine = False
        if mine:
            self._fill(job)
        with self._wake:
            self._wake.wait_for(lambda: job.state in ("ready", "failed"))
            if began is not None:
                self.statistics.layers[layer].stall += time.perf_counter() - began
            if job.state == "failed":
                assert job.error is not None
                raise job.error

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._urgent or self._later)
                if self._closed:
                    return
                job = (self._urgent or self._later).popleft()
                job.state = "reading"
            self._fill(job)

    def _fill(self, job: _Job) -> None:
        error: BaseException | None = None
        try:
            if job.free_at is not None:
                job.free_at.synchronize()
            for part, share in job.parts:
                self.source.fill(job.key, part, share)
        except BaseException as caught:  # it is the waiting thread that raises it
            error = caught
        with self._wake:
            layer = self.statistics.layers[job.key[0]]
            parts = self.layout.sites[job.key[0]].parts
            layer.nbytes += sum(parts[number].spec.nbytes for number, _ in job.parts)
            self._moving.discard(job.key)
            job.error, job.state = error, "ready" if error is None else "failed"
            if error is not None and self._held.get(job.key) is job:
                self._remove(job)
            self._wake.notify_all()
