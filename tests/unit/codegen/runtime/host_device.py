"""A device made of host memory, whose streams have no order but the one that was asked for.

It does what a GPU may do, and tells of what must not be done to one: memory that is not there any more, threads that did
not enter, a capture that is disturbed. It runs what is queued in one of two ways, in which a missing wait shows:

- lazily, as late as it may: only what somebody waits for, when he waits for it;
- on a thread of each stream, at its own pace.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort

from cutset.codegen.runtime.backends.base import BackendDied, BackendError

PATIENCE_S = 30
FRESH, STALE = 0xA5, 0x5A


@dataclass(eq=False)
class Stream:
    """What is queued: calls, and waits for places in other streams."""

    queue: list[Callable[[], None] | tuple[Stream, int]] = field(default_factory=list)
    done: int = 0

    def finish(self) -> None:
        """Go on to the next thing, and keep nothing of this one alive."""
        self.queue[self.done] = (self, 0)
        self.done += 1


class HostDevice:
    """See the module; a `device.Device`.

    Args:
        pace: Seeds how long the streams' threads take for each thing; None for a lazy device.
    """

    kind = "cpu"
    name = "host memory"
    compute_capability = "8.9"
    driver = "580"

    def __init__(self, pace: int | None = None) -> None:
        self.blocks: dict[int, np.ndarray] = {}
        self.freed: list[np.ndarray] = []
        self.violations: list[str] = []
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, tuple[Stream, int] | None] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.captures = self.launches = self.allocations = 0
        self.refuse_capture = False
        self.dead = False
        self._captured: tuple[Stream, int, list[Callable[[], None]]] | None = None
        self._handles = iter(range(1, 1 << 30))
        self._change = threading.Condition(threading.RLock())
        self._entered = threading.local()
        self._pace = None if pace is None else random.Random(pace)
        self._threads: list[threading.Thread] = []
        self.enter()

    def live(self) -> int:
        """Return how many blocks, streams, events and graphs are there."""
        return len(self.blocks) + len(self.streams) + len(self.events) + len(self.graphs)

    @property
    def capturing(self) -> bool:
        """Whether what is queued somewhere is collected."""
        return self._captured is not None

    @property
    def idle(self) -> bool:
        """Whether all that was queued is done."""
        return all(stream.done == len(stream.queue) for stream in self.streams.values())

    def kill(self) -> None:
        """Lose the device: whatever is called fails, whatever is queued is gone."""
        with self._change:
            self.dead = True
            self._change.notify_all()

    def enter(self) -> None:
        self._alive()
        self._entered.yes = True

    def allocate(self, size: int) -> int:
        self._called()
        with self._change:
            if self._captured and self._captured[1] == threading.get_ident():
                raise BackendError("operation not permitted when stream is capturing")
            block = np.full(max(size, 1), FRESH, np.uint8)
            self.blocks[block.ctypes.data] = block
            self.allocations += 1
            return block.ctypes.data

    allocate_pinned = allocate

    def free(self, address: int) -> None:
        with self._change:
            block = self.blocks.pop(address, None)
            if block is None:
                self.violations.append("memory was freed twice")
                return
            block[:] = STALE
            self.freed.append(block)  # so that a late copy hits this, and not somebody else's memory
        self._called()

    free_pinned = free

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        self._called()
        self.queue(stream, lambda: self._copy(device, host, size))

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        self.copy_in(host, device, size, stream)

    def copy_within(self, target: int, source: int, size: int, stream: int) -> None:
        self.copy_in(target, source, size, stream)

    def create_stream(self) -> int:
        self._called()
        handle, stream = next(self._handles), Stream()
        self.streams[handle] = stream
        if self._pace is not None:
            thread = threading.Thread(target=self._work, args=(handle, stream), daemon=True)
            self._threads.append(thread)
            thread.start()
        return handle

    def destroy_stream(self, stream: int) -> None:
        with self._change:
            there = self.streams.pop(stream)
            if not self.dead and there.done < len(there.queue):
                self.violations.append("a stream was destroyed with work in it")
            self._change.notify_all()
        self._called()

    def create_event(self) -> int:
        self._called()
        handle = next(self._handles)
        self.events[handle] = None
        return handle

    def destroy_event(self, event: int) -> None:
        del self.events[event]
        self._called()

    def record(self, event: int, stream: int) -> None:
        self._called()
        with self._change:
            self.events[event] = self._end(self.streams[stream])

    def wait(self, stream: int, event: int) -> None:
        self._called()
        place = self.events[event]
        if place is not None:
            self.queue(stream, place)

    def synchronise_event(self, event: int) -> None:
        self._called()
        place = self.events[event]
        if place is not None:
            self._reach(*place)

    def synchronise(self, stream: int) -> None:
        self._called()
        with self._change:
            there = self.streams[stream]
            if self._captured and self._captured[0] is there:
                if self._captured[1] != threading.get_ident():
                    self.violations.append("another thread's capture was disturbed")
                self._captured = None
        self._reach(*self._end(there))

    def begin_capture(self, stream: int) -> None:
        self._called()
        with self._change:
            assert self._captured is None
            self._captured = (self.streams[stream], threading.get_ident(), [])

    def end_capture(self, stream: int) -> int:
        self._called()
        with self._change:
            assert self._captured is not None
            captured, self._captured = self._captured, None
            assert captured[:2] == (self.streams[stream], threading.get_ident())
            if self.refuse_capture:
                raise BackendError("the stream cannot be captured")
            handle = next(self._handles)
            self.graphs[handle] = captured[2]
            self.captures += 1
            return handle

    def launch(self, graph: int, stream: int) -> None:
        self._called()
        self.launches += 1
        for call in self.graphs[graph]:
            self.queue(stream, call)

    def destroy_graph(self, graph: int) -> None:
        del self.graphs[graph]
        self._called()

    def queue(self, stream: int, what: Callable[[], None] | tuple[Stream, int]) -> None:
        """Queue a call, or a wait for a place in another stream."""
        with self._change:
            there = self.streams[stream]
            if self._captured and self._captured[0] is there:
                assert callable(what)
                self._captured[2].append(what)
                return
            there.queue.append(what)
            self._change.notify_all()

    def stop(self) -> None:
        """End the streams' threads; every stream was destroyed."""
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def _alive(self) -> None:
        if self.dead:
            raise BackendDied("the device is lost")

    def _called(self) -> None:
        self._alive()
        if not hasattr(self._entered, "yes"):
            self.violations.append("a thread that did not enter called the device")

    @staticmethod
    def _end(stream: Stream) -> tuple[Stream, int]:
        return stream, len(stream.queue)

    def _copy(self, target: int, source: int, size: int) -> None:
        for address in (target, source):  # one that is in no block is ONNX Runtime's own
            for block, live in [*((block, True) for block in self.blocks.values()), *((block, False) for block in self.freed)]:
                start = block.ctypes.data
                inside = start <= address and address + size <= start + len(block)
                if start < address + size and address < start + len(block) and not (live and inside):
                    self.violations.append("a copy uses memory that is not there")
                    return
        ctypes.memmove(target, source, size)

    def _reach(self, stream: Stream, place: int) -> None:
        """Return when everything before a place of a stream is done."""
        with self._change:
            if self._pace is None:
                self._drive(stream, place)
            else:
                self._until_done(stream, place)
        self._alive()

    def _until_done(self, stream: Stream, place: int) -> None:
        assert self._change.wait_for(lambda: stream.done >= place or self.dead, PATIENCE_S), "a stream hangs"

    def _drive(self, stream: Stream, place: int) -> None:
        while stream.done < place and not self.dead:
            what = stream.queue[stream.done]
            if callable(what):
                what()
            else:
                self._drive(*what)
            stream.finish()

    def _work(self, handle: int, stream: Stream) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: stream.done < len(stream.queue) or handle not in self.streams or self.dead)
                if handle not in self.streams or self.dead:
                    return
                what = stream.queue[stream.done]
                delay = self._pace.choice([0, 0, 2e-4, 1e-3])
                if not callable(what):
                    self._until_done(*what)
            time.sleep(delay)
            if callable(what):
                what()
            del what
            with self._change:
                stream.finish()
                self._change.notify_all()


class StreamedSession:
    """A session on the CPU provider that stands in for one on the CUDA provider: its runs are queued on a stream.

    Args:
        session: The session.
        device: The device.
        stream: The stream.
        waits: Whether a run waits for its end, as one whose outputs' sizes are not known before must.
        fail: Called before each run; may raise what the run is to fail with.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: HostDevice,
        stream: int,
        *,
        waits: bool,
        fail: Callable[[], None] = lambda: None,
    ) -> None:
        self._session, self._device, self._stream, self._waits, self._fail = session, device, stream, waits, fail
        self._graphs: dict[str, tuple[ort.IOBinding, int]] = {}
        self._running = threading.Lock()
        self.get_inputs, self.get_outputs, self.io_binding = session.get_inputs, session.get_outputs, session.io_binding
        self.get_overridable_initializers = session.get_overridable_initializers

    def run_with_iobinding(self, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        with self._alone():
            self._fail()
            with contextlib.suppress(RuntimeError):  # ONNX Runtime has no entry of that name
                graph = options.get_run_config_entry("gpu_graph_id")
                if graph != "-1":
                    recorded = self._graphs.setdefault(graph, (binding, threading.get_ident()))
                    assert recorded == (binding, threading.get_ident()), "a graph has its memory and its thread"
            self._device.queue(self._stream, lambda: self._session.run_with_iobinding(binding))
            if self._waits:
                self._device.synchronise(self._stream)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._running.acquire(blocking=False), "two threads queue at once"
        try:
            yield
        finally:
            self._running.release()
