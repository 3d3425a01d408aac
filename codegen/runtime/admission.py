"""Who may be inside the pipeline: tokens for the requests inside, one bounded line for those outside.

Because at most `tokens` requests are inside, no queue behind the door needs a bound, no hand-over between stages ever
blocks, and so no plan can deadlock; bounded queues between re-entrant stages can.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

from .context import Context
from .errors import Closed, DeadlineExceeded, Overloaded


class Admission:
    """The door. Thread-safe; holds no thread.

    Args:
        tokens: Most requests inside.
        queue_limit: Most requests in the line outside.
        interval_s: Seconds a request takes at saturation, for the advice in `Overloaded`.
    """

    def __init__(self, *, tokens: int, queue_limit: int, interval_s: float) -> None:
        self._tokens = tokens
        self._queue_limit = queue_limit
        self._retry_after_s = (tokens + queue_limit) * interval_s
        self._lock = threading.Lock()
        self._space = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._free = tokens
        self._blocked = 0
        self._line: dict[Context, None] = {}  # in order, and a cancelled one leaves in O(1)
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    def counts(self) -> tuple[int, int]:
        """Return how many requests are inside, and how many wait outside."""
        with self._lock:
            return self._tokens - self._free, len(self._line)

    def enter(self, context: Context, future: Future[Any], *, wait: bool) -> bool:
        """Return True if the request has a token and must be started now, False if it waits in the line.

        Args:
            context: The new request.
            future: Its future; cancelled, it leaves the line.
            wait: Block until there is room, instead of raising `Overloaded`.

        Raises:
            Overloaded: If there is no room and `wait` is False.
            Closed: If the door is closed, also while blocked.
            DeadlineExceeded: If the deadline passed while blocked.
        """
        with self._lock:
            while True:
                if self._take_token():
                    return True
                if len(self._line) < self._queue_limit:
                    self._line[context] = None
                    break
                if not wait:
                    raise Overloaded(waiting=len(self._line), retry_after_s=self._retry_after_s)
                self._block(context)
        future.add_done_callback(lambda done: self._forget(context, done))
        return False

    def enter_now(self) -> bool:
        """Return whether the caller's request has a token, which it has if one is free.

        Raises:
            Closed: If the door is closed.
        """
        with self._lock:
            return self._take_token()

    def leave(self) -> Context | None:
        """Give one token back; return the request that has it now and must be started, if one was waiting."""
        with self._lock:
            following = next(iter(self._line), None)
            if following is None:
                self._free += 1
                if self._closed and self._free == self._tokens:  # only then someone may wait for it
                    self._idle.notify_all()
            else:
                del self._line[following]
            if self._blocked:
                self._space.notify()
            return following

    def close(self) -> None:
        """Take nothing more; those blocked in `enter` get `Closed`."""
        with self._lock:
            self._closed = True
            self._space.notify_all()

    def drain(self, timeout: float | None) -> bool:
        """Wait, after `close`, until nobody is inside or waiting; return False if `timeout` seconds passed first."""
        with self._lock:
            return self._idle.wait_for(lambda: self._free == self._tokens and not self._line, timeout)

    def _take_token(self) -> bool:
        """Return whether there was one; with the lock held."""
        if self._closed:
            raise Closed("the pipeline is closed")
        if self._free == 0:
            return False
        self._free -= 1
        return True

    def _block(self, context: Context) -> None:
        remaining = None if context.deadline is None else context.deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            # The wake-up this request may have used up belongs to the next one.
            self._space.notify()
            raise DeadlineExceeded("the deadline passed before there was room in the pipeline")
        self._blocked += 1
        try:
            self._space.wait(remaining)
        finally:
            self._blocked -= 1

    def _forget(self, context: Context, future: Future[Any]) -> None:
        if not future.cancelled():
            return
        with self._lock:
            if context not in self._line:
                return
            del self._line[context]
            self._space.notify()
            if self._free == self._tokens and not self._line:
                self._idle.notify_all()
        future.set_running_or_notify_cancel()  # tells those in `concurrent.futures.wait`
