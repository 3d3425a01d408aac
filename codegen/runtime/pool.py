"""Worker threads over one queue in which later phases come first, and permits that a caller's own thread may borrow."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from .context import Context


class WorkerPool:
    """At most `threads` requests advance at once. Putting never blocks.

    A permit stands for a worker's right to compute. Each is held by a thread that computes, or is free; a request that
    finds none waits in the queue of its phase, and whoever gives a permit back takes the latest phase's first: finishing
    a request frees a token, starting one does not. A caller that waits for its own request may `borrow` a free permit
    and do the work itself: two changes of thread cost more than a small stage.

    A phase that runs several requests as one starts beside another run only when it has as many as it takes: the device
    computes one after the other anyway, and what waits for the run under way is a larger batch after it.

    Args:
        name: The device the pool stands for; names the threads.
        threads: How many.
        phases: Of each phase of the plan, how many requests are worth a run beside another.
        advance: Called in a worker with each request; must not raise.
    """

    def __init__(
        self, name: str, *, threads: int, phases: Sequence[int], advance: Callable[[Context, WorkerPool], None]
    ) -> None:
        self.name = name
        self.size = threads
        self._advance = advance
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)
        self._worth = tuple(phases)
        self._waiting: tuple[deque[Context], ...] = tuple(deque() for _ in phases)
        self._free = threads
        self._gathering: set[int] = set()
        self._inbox: queue.SimpleQueue[Context | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"cutset-{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, context: Context) -> None:
        """Give a request to a free worker, or queue it for its current phase."""
        with self._lock:
            if context.phase in self._gathering:
                self._waiting[context.phase].append(context)
                self._arrival.notify_all()
                return
            if self._free == self.size or (self._free and self._worth[context.phase] == 1):
                self._free -= 1
                self._inbox.put(context)
                return
            self._waiting[context.phase].append(context)
            self._start_full(context.phase)

    def borrow(self) -> bool:
        """Return whether the calling thread now holds a permit; it must advance one request and `give_back`."""
        with self._lock:
            if self._free == 0:
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        """End a loan: a worker takes the permit if a request waits for it."""
        with self._lock:
            following = self._take()
        if following is not None:
            self._inbox.put(following)

    def depth(self, phase: int) -> int:
        """Return how many requests wait for a phase."""
        return len(self._waiting[phase])

    def gather(self, phase: int, take: Callable[[Context], bool], *, full: Callable[[], bool], until: float | None) -> None:
        """Take requests that wait for a phase out of the queue, in order, leaving those that `take` refuses.

        Args:
            phase: The phase.
            take: Told of each waiting request once; returns whether it is taken.
            full: Whether no more can be taken.
            until: Wait for more until this time of `time.monotonic`; None takes only what is there.
        """
        seen: set[int] = set()
        with self._lock:
            self._sweep(phase, take, full, seen)
            if until is None:
                self._start_full(phase)
                return
            self._gathering.add(phase)
            try:
                while not full() and self._arrival.wait(max(0.0, until - time.monotonic())):
                    self._sweep(phase, take, full, seen)
            finally:
                self._gathering.discard(phase)
                self._hand_out()

    def stop(self, timeout: float | None = None) -> None:
        """End the threads, which must be idle or about to be, and wait at most `timeout` seconds for each."""
        for _ in self._threads:
            self._inbox.put(None)
        for thread in self._threads:
            thread.join(timeout)

    def _work(self) -> None:
        while (context := self._inbox.get()) is not None:
            while context is not None:
                self._advance(context, self)
                with self._lock:
                    context = self._take()

    def _take(self) -> Context | None:
        """Return the request of the latest phase, or None after freeing the permit; with the lock held."""
        for phase in range(len(self._waiting) - 1, -1, -1):
            if self._waiting[phase] and phase not in self._gathering:
                return self._waiting[phase].popleft()
        self._free += 1
        return None

    def _start_full(self, phase: int) -> None:
        """Start a run of a phase for which enough requests wait, if a permit is free; with the lock held."""
        if self._free and len(self._waiting[phase]) >= self._worth[phase] and phase not in self._gathering:
            self._free -= 1
            self._inbox.put(self._waiting[phase].popleft())

    def _sweep(self, phase: int, take: Callable[[Context], bool], full: Callable[[], bool], seen: set[int]) -> None:
        waiting = self._waiting[phase]
        for _ in range(len(waiting)):
            context = waiting.popleft()
            taken = id(context) not in seen and not full() and take(context)
            seen.add(id(context))
            if not taken:
                waiting.append(context)

    def _hand_out(self) -> None:
        """Start what queued up for a gatherer and was not taken, as far as permits are free; with the lock held."""
        while self._free:
            self._free -= 1
            following = self._take()
            if following is None:
                return
            self._inbox.put(following)
