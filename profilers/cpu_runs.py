"""Runs of one model on onnxruntime's CPU provider: unfused for its shapes, with every core busy, and traced."""

from __future__ import annotations

import contextlib
import copy
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from cutset.errors import CutsetError, ProfileError
from cutset.graph.extract import write_anonymous
from cutset.graph.model import ModelGraph
from cutset.profilers.attribution import Group, Kernel, attribute, kernels_of
from cutset.profilers.gauge import gauge
from cutset.profilers.session import Arrays, open_session, run, session_options
from cutset.profilers.table import Latency, OptimizationLevel
from cutset.profilers.timing import MIN_RUNS, Run, at_own_speed, await_calm, repeat, summarise, take_turn, time_once, typical_s
from cutset.profilers.trace_cost import KernelRun, TraceCost, kernel_runs, measure_trace_cost, typical_run

UNFUSED_RUNS = 3
LOADED_ROUND_S = 0.05
"""Seconds that all workers run between two readings of the gauge."""

TRACED_RUNS = 200
TRACED_EVENTS = 120_000
"""Kernels in all traced runs together, about: each takes some 300 bytes of trace and 10 us to read."""
MIN_TRACED_RUNS = 15
WARMUP_RUNS = 2

UNTIMED = TraceCost(node_s=0.0, inside_s=0.0, whole_s=0.0)
"""For a trace that is read for its shapes: measuring what tracing costs takes longer than running a small model."""

_ORT_TYPES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """What the groups of a model take.

    Args:
        groups: Nodes that run as one unit.
        seconds: Of each group.
        beside: Runs without a trace that took turns with the traced ones.
        ratio: Seconds of all kernels over those of such a run, the median over the rounds; None without any.
    """

    groups: tuple[Group, ...]
    seconds: tuple[float, ...]
    beside: tuple[Run, ...]
    ratio: float | None


class CpuRuns:
    """A temporary anonymised copy of the model, weights beside it so that every session maps them, and what runs of it show.

    Args:
        graph: The model.
        folder: Where the copy is written.
        threads: Intra-op threads.
        level: How far onnxruntime may rewrite the graph.
        timed: Whether times count: then what tracing costs is measured first.
    """

    def __init__(
        self, graph: ModelGraph, folder: Path, threads: int, level: OptimizationLevel = "all", *, timed: bool = True
    ) -> None:
        self.graph = graph
        self.folder = folder
        self.threads = threads
        self.level = level
        self.model, self.optimised = folder / "model.onnx", folder / "optimised.onnx"
        self.originals = write_anonymous(graph, self.model)
        self.anonymous = {original: name for name, original in self.originals.items()}
        self.cost = measure_trace_cost() if timed else UNTIMED

    def feed(self, inputs: Arrays) -> dict[str, Any]:
        """Return the inputs under their anonymous names."""
        # Copies: without its optimisations onnxruntime 1.32 overwrote inputs (Identity before a training BatchNormalization).
        return {self.anonymous[name]: copy.copy(value) for name, value in inputs.items()}

    def open(self, **settings: Any) -> Any:
        """Return an open session; `level`, and attributes of onnxruntime's options, may be given."""
        options = session_options(
            threads=self.threads, level=settings.pop("level", self.level), keeps_dropout=self.graph.keeps_dropout
        )
        for name, value in settings.items():
            setattr(options, name, value)
        if "optimized_model_filepath" in settings:
            data = Path(settings["optimized_model_filepath"]).name + ".data"
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        try:
            return open_session(self.model, custom_ops=self.graph.custom_ops, options=options, where=str(self.graph.path))
        except CutsetError as error:
            raise error.reworded(self._original_names) from error.__cause__

    def run(self, session: Any, feed: Arrays) -> dict[str, Any]:
        """Return the outputs of a session from `open`; see `session.run`."""
        try:
            return run(session, feed)
        except CutsetError as error:
            raise error.reworded(self._original_names) from error.__cause__

    def _original_names(self, text: str) -> str:
        """Return a text of onnxruntime with the model's own names for those of the anonymous copy."""
        names = {f"n{index}": node.name for index, node in enumerate(self.graph.nodes)} | self.originals
        return re.sub(r"\b[nv]\d+\b", lambda found: names.get(found.group(), found.group()), text)

    def _traced(
        self, feed: Mapping[str, Any], repeated: Callable[[Callable[[], object]], list[Run]], **settings: Any
    ) -> tuple[list[KernelRun], list[Run]]:
        """Return the kernel events of a traced session, and the runs it made."""
        session = self.open(enable_profiling=True, profile_file_prefix=str(self.folder / "trace"), **settings)
        try:
            runs = repeated(lambda: self.run(session, feed))
        finally:
            trace = Path(session.end_profiling())
        events = list(kernel_runs(trace, self.cost))
        trace.unlink()
        return events, runs

    def loaded(self, call: Callable[[], object], budget_s: float, workers: int) -> Latency:
        """Return the latency while every worker runs the model: they share memory bandwidth and caches.

        The gauge is read while they pause, so that it shows what others do to the machine and not what they do to each other.
        """
        end = time.perf_counter() + budget_s
        runs: list[Run] = []
        with ThreadPoolExecutor(workers) as pool:
            before_s = gauge().read()
            while not runs or time.perf_counter() < end:
                begun = [pool.submit(repeat, call, budget_s=LOADED_ROUND_S, warmup=1) for _ in range(workers)]
                fresh = [entry for future in begun for entry in future.result()]
                after_s = gauge().read()
                runs += [replace(entry, gauge_s=(before_s + after_s) / 2) for entry in fresh]
                before_s = after_s
        return summarise(at_own_speed(runs, gauge()), threads=self.threads)

    def unfused(
        self, feed: Mapping[str, Any], *, runs: int = UNFUSED_RUNS
    ) -> tuple[dict[str, float], dict[str, tuple[int, ...]], dict[str, str]]:
        """Return the seconds of each node with every optimisation off, and shape and element type of every value."""
        events, _ = self._traced(feed, lambda call: [time_once(call) for _ in range(runs)], level="none")
        names = {f"n{index}": node for index, node in enumerate(self.graph.nodes)}
        seconds: dict[str, list[float]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        dtypes: dict[str, str] = {}
        for event in events:
            node = names.get(event.name)
            if node is None:
                continue
            seconds.setdefault(node.name, []).append(event.seconds)
            if len(event.outputs) == len(node.outputs):
                for output, entry in zip(node.outputs, event.outputs, strict=True):
                    (dtype, shape), *_ = entry.items()
                    shapes[output], dtypes[output] = tuple(shape), _ORT_TYPES.get(dtype, dtype)
        needed = [node for node in self.graph.nodes if node.name not in self.graph.dead_nodes]  # constant ones too
        missing = [o for node in needed for o in node.outputs if o not in shapes and not self.graph.knows_shape(o)]
        self._observe(feed, missing, shapes, dtypes)
        return {name: max(self.cost.node_s, min(times)) for name, times in seconds.items()}, shapes, dtypes

    def _observe(self, feed: Mapping[str, Any], missing: Sequence[str], shapes: dict[str, Any], dtypes: dict[str, str]) -> None:
        """Fetch the values that the trace did not show (of operators that onnxruntime expands or folds) as outputs."""
        names = [self.anonymous[value] for value in missing if value in self.anonymous]
        if not names:
            return
        proto = onnx.load(str(self.model), load_external_data=False)
        declared = {value.name for value in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in declared)
        target = self.folder / "observed.onnx"
        onnx.save(proto, str(target))
        options = session_options(threads=self.threads, level="none")
        with contextlib.suppress(Exception):  # a type onnxruntime cannot infer: the shape stays unknown and cannot be cut
            found = run(open_session(target, custom_ops=self.graph.custom_ops, options=options), feed, names)
            for name, value in found.items():
                if isinstance(value, np.ndarray):
                    original = self.originals[name]
                    shapes[original] = value.shape
                    dtypes[original] = "string" if value.dtype.kind in "OUS" else str(value.dtype)

    def fused(self, feed: Mapping[str, Any], budget_s: float, beside: Callable[[], object] | None = None) -> Fused:
        """Return the groups and what they take.

        As long as there is time for all runs, a round waits for the machine to be calm.

        Args:
            feed: From `feed`.
            budget_s: Seconds for all turns.
            beside: A call of the model without a trace, between two turns of the traced one; None for none.
        """
        most = min(TRACED_RUNS, max(MIN_TRACED_RUNS, TRACED_EVENTS // max(1, len(self.graph.nodes))))
        rounds: list[tuple[list[Run], list[Run]]] = []

        def in_turns(call: Callable[[], object]) -> list[Run]:
            take_turn([call], most=WARMUP_RUNS)
            end, made, spent_s = time.perf_counter() + budget_s, 0, 0.0
            while made < MIN_RUNS or (made < most and time.perf_counter() < end):
                if made >= MIN_RUNS:
                    await_calm(gauge(), end - (most - made) * spent_s / made)
                begin = time.perf_counter()
                traced = _gauged_turn(call, most // MIN_TRACED_RUNS)
                plain = _gauged_turn(beside, most // MIN_TRACED_RUNS) if beside is not None else []
                traced += _gauged_turn(call, most // MIN_TRACED_RUNS)
                spent_s += time.perf_counter() - begin
                rounds.append((traced, plain))
                made += len(traced)
            return [entry for traced, _ in rounds for entry in traced]

        events, runs = self._traced(feed, in_turns, optimized_model_filepath=str(self.optimised))
        kernels, groups = self.attributed()
        names = {kernel.name for kernel in kernels}
        typical = typical_run(events, names, runs, cost=self.cost, speed=gauge())
        if kernels and not typical.kernels:
            raise ProfileError("onnxruntime's profile names none of the model's kernels", where=str(self.graph.path))
        seconds = (sum(typical.kernels.get(kernels[index].name, 0.0) for index in group.kernels) for group in groups)
        shown = iter(typical.shown.tolist())
        ratios = [
            typical_s([replace(entry, wall_s=next(shown)) for entry in traced]) / typical_s(plain)
            for traced, plain in rounds
            if plain
        ]
        return Fused(
            groups=tuple(groups),
            seconds=tuple(seconds),
            beside=tuple(entry for _, plain in rounds for entry in plain),
            ratio=median(ratios) if ratios else None,
        )

    def attributed(self) -> tuple[list[Kernel], list[Group]]:
        """Return the kernels of the optimised graph that a session saved, and the groups of nodes that they run."""
        kernels = kernels_of(onnx.load(str(self.optimised), load_external_data=False).graph)
        return kernels, attribute(self.graph, kernels, self.originals)


def _gauged_turn(call: Callable[[], object], most: int) -> list[Run]:
    """Return the runs of a turn, each with what the gauge read around it."""
    before_s = gauge().read()
    (runs,) = take_turn([call], most=most)
    after_s = gauge().read()
    return [replace(entry, gauge_s=(before_s + after_s) / 2) for entry in runs]
