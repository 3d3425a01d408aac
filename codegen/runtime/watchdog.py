"""Find hung runs of stages on threads: nothing ends a thread, but the requests of the run are answered.

A stage in a process is watched by `backends.process`, which kills the process.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from .context import Context

_LONGEST_SLEEP_S = 1.0
_LOOKS = 8  # in the time of the shortest limit


class WatchedRun:
    """One run under way.

    Args:
        members: The requests that the run answers.
        limit_s: Seconds after which the run counts as hung.
    """

    __slots__ = ("limit_s", "members", "until_s")

    def __init__(self, members: Sequence[Context], limit_s: float) -> None:
        self.members = members
        self.limit_s = limit_s
        self.until_s = time.monotonic() + limit_s


class Watchdog:
    """A thread that looks for hung runs; none is started where every limit is infinite.

    A run belongs to whoever takes it out of the table: the worker that comes back with the outputs, or the watchdog.

    Args:
        limits_s: The limits of the runs that will be watched.
        hung: Told of each run that is found hung, to answer its requests.
    """

    def __init__(self, limits_s: Sequence[float], hung: Callable[[WatchedRun], None]) -> None:
        shortest_s = min(limits_s, default=math.inf)
        self._sleep_s = min(_LONGEST_SLEEP_S, shortest_s / _LOOKS)
        self._report = hung
        self._runs: dict[WatchedRun, bool] = {}  # True each; `pop` says atomically whose the run is
        self._hung: set[WatchedRun] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="cutset-watchdog", daemon=True)
        if shortest_s < math.inf:
            self._thread.start()

    @property
    def hung(self) -> int:
        """How many runs are hung now."""
        return len(self._hung)

    def begin(self, members: Sequence[Context], limit_s: float) -> WatchedRun | None:
        """Watch a run from now on; None for a run without a limit."""
        if limit_s == math.inf:
            return None
        run = WatchedRun(members, limit_s)
        self._runs[run] = True
        return run

    def end(self, run: WatchedRun | None) -> bool:
        """Take note that a run returned; return whether its requests are still to be answered."""
        if run is None or self._runs.pop(run, False):
            return True
        self._hung.discard(run)
        return False

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(self._sleep_s):
            now = time.monotonic()
            for run in [run for run in list(self._runs) if now >= run.until_s]:
                self._hung.add(run)  # first, so that a worker that returns meanwhile finds it there
                if self._runs.pop(run, False):
                    self._report(run)
                else:
                    self._hung.discard(run)
