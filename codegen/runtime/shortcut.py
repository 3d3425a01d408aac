"""When an event loop computes a request itself: where all of it takes less than the way to another thread and back."""

from __future__ import annotations

from collections.abc import Sequence

from .config import PlanConfig
from .schedule import Phase
from .statistics import StageRecorders

LIMIT_S = 1e-4
"""About what two changes of thread cost, the interpreter's lock changing hands beside the loop's own work."""
_OVERRUN_S = 10 * LIMIT_S
_MOST_SKIPPED = 2**16


class Shortcut:
    """Guards the thread that asks against stages that take long.

    It is open once every stage has been run and the shortest runs fit into the limit together. What overruns it, because
    the time depends on the data, closes it for a while, twice as long each time: the thread is held up about once in
    65,536 requests at worst. What was but a hiccup of the machine is forgotten.

    Args:
        plan: The plan; nothing is run here where a batch waits for company, or a stage lies in a process, whose
            replacement would be waited for.
        phases: Its stages, loaded; nothing is run here unless all of them run on the CPU.
        recorders: What is counted of its stages.
    """

    def __init__(self, plan: PlanConfig, phases: Sequence[Phase], recorders: Sequence[StageRecorders]) -> None:
        near = all(phase.device == "cpu" and phase.stage.execution == "thread" for phase in phases)
        self._allowed = near and not plan.max_delay_s
        self._short = False
        self._recorders = recorders
        self._skip = 0
        self._penalty = 1

    def open(self) -> bool:
        """Return whether the next request may be computed by the thread that asks."""
        if not self._short:  # and once they were, the shortest runs stay short
            shortest_s = sum(recorders.service.least for recorders in self._recorders)
            self._short = self._allowed and shortest_s <= LIMIT_S
            return self._short
        if self._skip:
            self._skip -= 1
            return False
        return True

    def took(self, seconds: float) -> None:
        """Take note of how long a request that was computed so held the thread."""
        if seconds > _OVERRUN_S:
            self._skip = self._penalty = min(2 * self._penalty, _MOST_SKIPPED)
        elif self._penalty > 1:
            self._penalty -= 1
