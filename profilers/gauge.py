"""How fast this machine is just now, so that what others do to it can be taken out of a measurement.

A core whose other hardware thread belongs to somebody else, or whose clock is lowered, runs half again slower for tenths of
a second to minutes, and no clock of the operating system shows it: nothing is preempted. A fixed computation between
the runs does. It is a matrix product in onnxruntime, because what is measured is mostly that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from cutset.profilers.cache import CostCache
from cutset.profilers.environment import cpu_name
from cutset.profilers.session import open_session

SIZE = 192
REFERENCE_PERCENTILE = 10
"""Of all readings: the machine at its own speed, but not at its luckiest."""

USUAL_POWER = 0.75
"""A program's slowdown as a power of the gauge's: what makes medians agree best (`benchmarks/gauge.py`, and a hundred recorded
profiles of five networks). Fitted to one program's own runs it comes out too small or too great, for the gauge moves between
two readings, and the medians agree worse."""

POWER_APART = 0.25
"""How far a program's own power lies from that, at most, for nearly all that were looked at."""


class Gauge:
    """A fixed computation of some tenths of a millisecond; thread-safe."""

    def __init__(self) -> None:
        shape = [SIZE, SIZE]
        names = ("a", "b", "c")
        nodes = [helper.make_node("MatMul", [source, "w"], [target]) for source, target in pairwise(names)]
        sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in (names[0], names[-1])]
        weights = [numpy_helper.from_array(np.full(shape, 1 / SIZE, np.float32), "w")]
        graph = helper.make_graph(nodes, "gauge", sides[0], sides[1], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        self._session = open_session(model.SerializeToString())
        self._feed = {names[0]: np.ones(shape, np.float32)}
        self._lock = threading.Lock()
        self._readings: list[float] = []
        self._known_s = 0.0

    def read(self) -> float:
        """Return the CPU seconds that the computation takes now; the first of two runs brings it into the cache."""
        self._session.run(None, self._feed)
        begin = time.thread_time_ns()
        self._session.run(None, self._feed)
        seconds = (time.thread_time_ns() - begin) * 1e-9
        with self._lock:
            self._readings.append(seconds)
        return seconds

    @property
    def own_s(self) -> float:
        """Its time at the machine's own speed: in the quickest tenth of all readings, or earlier, zero before the first."""
        with self._lock:
            found = float(np.percentile(self._readings, REFERENCE_PERCENTILE)) if self._readings else 0.0
            return min(found, self._known_s) if self._known_s and found else found or self._known_s

    def remember(self, own_s: float) -> None:
        """Take into account what it took at the machine's own speed earlier; zero says nothing."""
        with self._lock:
            self._known_s = min(self._known_s or own_s, own_s or self._known_s)

    def slowness(self, readings: Sequence[float]) -> npt.NDArray[np.float64]:
        """Return how many times slower than at its own speed the machine was at each reading, at least one."""
        own_s = self.own_s
        if not own_s:
            return np.ones(len(readings))
        return np.maximum(1.0, np.array(readings, float) / own_s)


@cache
def gauge() -> Gauge:
    """Return the gauge of this process, whose reference gets better with every reading."""
    return Gauge()


def recall(store: CostCache) -> None:
    """Let this process's gauge know what earlier ones saw on this machine."""
    known = store.get(_key())
    gauge().remember(known if isinstance(known, float) else 0.0)


def keep(store: CostCache) -> None:
    """Keep what this process's gauge saw, for later ones."""
    store.put(_key(), gauge().own_s)


def _key() -> dict[str, object]:
    return {"gauge": SIZE, "cpu": cpu_name(), "onnxruntime": ort.__version__}


def slowdown(slowness: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return by what to divide the time of a program to have it at the machine's own speed.

    Args:
        slowness: The gauge's while it ran.
    """
    result: npt.NDArray[np.float64] = slowness**USUAL_POWER
    return result


def doubt(slowness: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return by what factor a time that was divided by `slowdown` may still be off, either way.

    Args:
        slowness: The gauge's while it ran.
    """
    result: npt.NDArray[np.float64] = slowness**POWER_APART
    return result
