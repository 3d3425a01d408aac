"""Does a stage hold Python's interpreter lock while it computes? Then it runs in processes, or it would hold up the rest.

ONNX Runtime gives the lock back around a run and takes it again only where a custom operator is Python code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Stage
from cutset.profilers.session import Arrays, open_session, run

HELD_SHARE = 0.3
"""Above this a stage holds the lock: pure Python code gives it up after 5 ms, so who wants it every ms waits 5 of 6."""
WORTH_S = 1e-3
"""A run below this is not worth the way to another process and back, some 0.2 ms."""
_MEASURE_S = 0.05
_SAMPLE_S = 1e-3
_SCHEDULE = Path("/proc/thread-self/schedstat")
_ATTEMPTS = 5


def held_share(function: Callable[[], object]) -> float:
    """Return the share of the time, 0 to 1, that a thread which wakes every millisecond waits for the lock as `function` runs.

    The median of several attempts. Between, that thread sleeps: if it computed, it would want a core as well as the lock, and
    the machine's other processes would decide who gets on. Its waiting for a core does not count, where the system tells.
    """
    return median(_held_once(function) for _ in range(_ATTEMPTS))


def executions(graph: ModelGraph, stages: Sequence[Stage], folder: Path, sample: Arrays) -> list[str]:
    """Return ``"process"`` for each stage that holds the lock long enough to pay for it, ``"thread"`` for the others.

    Args:
        graph: The whole model.
        stages: The plan's stages, written under `folder`.
        folder: The package folder.
        sample: One complete input of the model.
    """
    if not graph.custom_ops or len(stages) == 1:
        return ["thread"] * len(stages)
    values = dict(sample)
    found = []
    for stage in stages:
        session = open_session(folder / stage.model, custom_ops=graph.custom_ops)
        feeds = {name: values[name] for name in stage.inputs}
        begin = time.perf_counter()
        values.update(run(session, feeds, stage.outputs))
        slow = time.perf_counter() - begin >= WORTH_S
        held = slow and held_share(lambda s=session, f=feeds, o=stage.outputs: run(s, f, o)) > HELD_SHARE  # type: ignore[misc]
        tensors = all(graph.values[name].is_tensor for name in (*stage.inputs, *stage.outputs))
        found.append("process" if held and tensors and stage.device == "cpu" else "thread")
    return found


def _held_once(function: Callable[[], object]) -> float:
    busy, over = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        while not over.is_set():
            function()

    thread = threading.Thread(target=work)
    thread.start()
    busy.wait()
    try:
        begin, (ran, waited) = time.perf_counter(), _schedule()
        slept = 0.0
        while not slept or time.perf_counter() - begin < _MEASURE_S:
            time.sleep(_SAMPLE_S)  # gives the lock back, and wants it again
            slept += _SAMPLE_S
        wall, (ran_until, waited_until) = time.perf_counter() - begin, _schedule()
    finally:
        over.set()
        thread.join()
    blocked = max(0.0, wall - (ran_until - ran) - (waited_until - waited) - slept)
    return blocked / (blocked + slept)


def _schedule() -> tuple[float, float]:
    """Return the seconds in which this thread computed, and in which it only waited for a core, where the system tells."""
    try:
        ran_ns, waited_ns, _ = _SCHEDULE.read_text("ascii").split()
    except (OSError, ValueError):
        return time.thread_time(), 0.0
    return int(ran_ns) * 1e-9, int(waited_ns) * 1e-9
