"""What onnxruntime's profiler itself adds to the times it writes, measured here, so that it can be taken out again.

Writing one event takes as long as a small kernel. Part of that lies inside the event and makes its kernel look slower;
all of it lies inside every event around it, and the body of a Loop writes an event for each node of each iteration.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from cutset.profilers.compare import CLOCK_S
from cutset.profilers.gauge import Gauge, gauge, slowdown
from cutset.profilers.session import open_session, session_options
from cutset.profilers.timing import CALM, MIN_QUIET_RUNS, Run, time_once, undisturbed
from cutset.profilers.trace import node_events

CHAIN = 128
RUNS = 15
ROUNDS, WAIT_S = 3, 0.4
"""Rounds that count, and how long to go on while fewer meet a calm machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceCost:
    """Seconds that one event costs, and the least that a kernel does.

    Args:
        node_s: A node that does next to nothing, untraced.
        inside_s: What of it the event shows as time of its kernel.
        whole_s: All of it, which the events around it show.
        gauge_s: What the gauge took meanwhile, zero without a gauge: on a slow machine, events cost more.
    """

    node_s: float
    inside_s: float
    whole_s: float
    gauge_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRun:
    """One run of one kernel.

    Args:
        name: Name of the node in the optimised graph.
        shown_s: Its time as the trace has it.
        added_s: What of that is the profiler's.
        outputs: Element type and shape of each output as onnxruntime notes them.
    """

    name: str
    shown_s: float
    added_s: float
    outputs: list[dict[str, list[int]]]

    @property
    def seconds(self) -> float:
        """Its time without the profiler's share, which can come out below zero for a kernel that does nothing."""
        return self.shown_s - self.added_s


def measure_trace_cost() -> TraceCost:
    """Return what an event costs on this machine now: a chain of nodes that do next to nothing, traced and not traced.

    The nodes read three values, as many as a convolution: the more values an event lists, the longer it takes. The
    first round does not count: in the first of a process the C library still asks the system for memory. Of the others
    the median does, of those on a calm machine alone if enough come soon.
    """
    model, feed = _chain().SerializeToString(), {"v0": np.ones((1, 1, 1, 1), np.float32)}
    plain = open_session(model, options=session_options(level="none"))
    calm: list[TraceCost] = []
    disturbed: list[TraceCost] = []
    end = time.perf_counter() + WAIT_S
    with tempfile.TemporaryDirectory(prefix="cutset-trace-") as folder:
        options = session_options(level="none")
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "trace")
        _measure_round(plain, open_session(model, options=options), feed)
        while len(calm) < ROUNDS and (len(calm) + len(disturbed) < ROUNDS or time.perf_counter() < end):
            before_s = gauge().read()
            cost = _measure_round(plain, open_session(model, options=options), feed)
            gauge_s = (before_s + gauge().read()) / 2
            (calm if gauge().slowness([gauge_s])[0] <= CALM else disturbed).append(replace(cost, gauge_s=gauge_s))
    rounds = calm if len(calm) == ROUNDS else calm + disturbed
    return sorted(rounds, key=lambda cost: cost.whole_s)[len(rounds) // 2]


def _measure_round(plain: ort.InferenceSession, traced: ort.InferenceSession, feed: dict[str, Any]) -> TraceCost:
    """Return the cost in one traced session; the two run in turn so that both meet the same machine."""
    runs = [(time_once(lambda: plain.run(None, feed)), time_once(lambda: traced.run(None, feed))) for _ in range(RUNS)]
    plain_s, traced_s = (lower_half(run.wall_s for run in side) for side in zip(*runs, strict=True))
    shown = [event["dur"] * 1e-6 for event in node_events(Path(traced.end_profiling()))]
    shown_s = float(np.mean([lower_half(shown[node::CHAIN]) for node in range(CHAIN)]))
    node_s = plain_s / CHAIN
    inside_s, whole_s = max(0.0, shown_s - node_s), max(0.0, traced_s / CHAIN - node_s)
    return TraceCost(node_s=node_s, inside_s=inside_s, whole_s=whole_s)


def _chain() -> onnx.ModelProto:
    """Return a model of `CHAIN` sums of three numbers, one after the other."""
    shape = [1, 1, 1, 1]
    nodes = [helper.make_node("Sum", [f"v{i}", "a", "b"], [f"v{i + 1}"], name=f"n{i}") for i in range(CHAIN)]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("v0", f"v{CHAIN}")]
    weights = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name in ("a", "b")]
    graph = helper.make_graph(nodes, "chain", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def lower_half(values: Iterable[float]) -> float:
    """Return the mean of the smaller half of `values`: preemption only ever adds, and onnxruntime counts whole microseconds.

    A percentile would be a whole number of microseconds too, which for most kernels of a small model is one of two.
    """
    ordered = np.sort(np.fromiter(values, float))
    return float(ordered[: (len(ordered) + 1) // 2].mean())


def winsorised_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean along the last axis, what lies outside its middle half by over a microsecond taken to there.

    A mean sees below the microsecond in which onnxruntime counts, where a quartile is one of two numbers; and a kernel
    that was interrupted, by the system or by the host of a virtual machine, which no count of preemptions shows, lies
    outside.

    Source:
        Dixon, "Simplified estimation from censored normal samples", Annals of Mathematical Statistics 31 (1960).
    """
    ordered = np.sort(values, axis=-1)
    quarter = ordered.shape[-1] // 4
    low, high = ordered[..., quarter, None], ordered[..., -1 - quarter, None]
    result: npt.NDArray[np.float64] = np.clip(values, low - CLOCK_S, high + CLOCK_S).mean(axis=-1)
    return result


def kernel_runs(trace: Path, cost: TraceCost) -> Iterator[KernelRun]:
    """Yield every run of every kernel in a trace of a sequential session, in the order in which they ended.

    An event that began after another and ended before it lies inside it: it ran in its body.

    Raises:
        ProfileError: If a line of a kernel is not JSON.
    """
    ended: list[tuple[int, int]] = []  # begin of each event that none is yet known to be around, and events in it
    for event in node_events(trace):
        inside = 0
        while ended and ended[-1][0] >= event["ts"]:
            inside += 1 + ended.pop()[1]
        ended.append((event["ts"], inside))
        yield KernelRun(
            name=event["name"],
            shown_s=event["dur"] * 1e-6,
            added_s=cost.inside_s + inside * cost.whole_s,
            outputs=event["args"].get("output_type_shape", []),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TypicalRun:
    """Seconds of each kernel in a run that nothing disturbed, and of all of them together.

    Args:
        kernels: Seconds of each, by its name.
        totals: Of all in every run that is like it, at the machine's own speed.
        shown: Of all in every run, in order, as they passed.
    """

    kernels: Mapping[str, float]
    totals: npt.NDArray[np.float64]
    shown: npt.NDArray[np.float64]


def typical_run(
    events: Iterable[KernelRun], names: Collection[str], runs: Sequence[Run], *, cost: TraceCost, speed: Gauge | None = None
) -> TypicalRun:
    """Return what each kernel takes in a typical run.

    Of the undisturbed runs, or, with too few of those, of the quicker half of all. Each is first brought to the same total:
    what slows a whole run says nothing about its kernels.

    Args:
        events: The trace.
        names: Kernels of the main graph; those of bodies lie inside their parent's time.
        runs: The runs, in order; what the trace holds before them was warm-up.
        cost: What an event cost, and the least that a kernel takes.
        speed: The gauge that was read between them; how slow it was is divided out, as in `timing.at_own_speed`.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        if event.name in names:
            found.setdefault(event.name, []).append((event.shown_s, event.added_s))
    if not found or not runs:
        return TypicalRun(kernels={}, totals=np.zeros(0), shown=np.zeros(len(runs)))
    count = len(runs)
    times = np.array([([(0.0, 0.0)] * count + entries)[-count:] for entries in found.values()])
    slowness = speed.slowness([entry.gauge_s for entry in runs]) if speed else np.ones(count)
    since_cost = slowdown(slowness / speed.slowness([cost.gauge_s])) if speed and cost.gauge_s else np.ones(count)
    seconds = times[..., 0] - times[..., 1] * since_cost
    shown = seconds.sum(axis=0)
    seconds = seconds / slowdown(slowness)
    chosen_runs = np.flatnonzero(undisturbed(runs, slowness))
    enough = len(chosen_runs) >= MIN_QUIET_RUNS
    quickest = np.argsort(seconds.sum(axis=0), kind="stable")
    candidates = chosen_runs if enough else quickest[: (count + 1) // 2]
    chosen = seconds[:, candidates]
    whole = np.maximum(CLOCK_S, (times[:, candidates, 0] / slowdown(slowness[candidates])).sum(axis=0))
    means = winsorised_mean(chosen * (winsorised_mean(whole) / whole))
    kernels = dict(zip(found, np.maximum(cost.node_s, means).tolist(), strict=True))
    return TypicalRun(kernels=kernels, totals=chosen.sum(axis=0), shown=shown)
