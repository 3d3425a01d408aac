"""Worker threads over one queue in which later phases come first."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable

from .context import Context


class WorkerPool:
    """Threads that advance requests. Putting never blocks.

    One FIFO a phase, and one `SimpleQueue` that counts: a worker takes a count, then the request of the latest
    phase. Both are single C calls, so a hand-over costs no Python-level lock. Later phases first, because finishing
    a request frees a token and starting one does not.

    Args:
        name: The device the pool stands for; names the threads.
        threads: How many.
        phases: How many phases the plan has.
        advance: Called in a worker with each request; must not raise.
    """

    def __init__(self, name: str, *, threads: int, phases: int, advance: Callable[[Context, WorkerPool], None]) -> None:
        self.name = name
        self.size = threads
        self._advance = advance
        self._waiting: tuple[deque[Context], ...] = tuple(deque() for _ in range(phases))
        self._counts: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"cutset-{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, context: Context) -> None:
        """Queue a request for its current phase."""
        self._waiting[context.phase].append(context)
        self._counts.put(True)

    def depth(self, phase: int) -> int:
        """Return how many requests wait for a phase."""
        return len(self._waiting[phase])

    def stop(self, timeout: float | None = None) -> None:
        """End the threads once the queue is empty, and wait at most `timeout` seconds for each."""
        for _ in self._threads:
            self._counts.put(False)
        for thread in self._threads:
            thread.join(timeout)

    def _work(self) -> None:
        while self._counts.get():
            self._advance(self._take(), self)

    def _take(self) -> Context:
        """Return the request of the latest phase; every count has one, though another worker may be quicker."""
        while True:
            for waiting in reversed(self._waiting):
                try:
                    return waiting.popleft()
                except IndexError:
                    continue
