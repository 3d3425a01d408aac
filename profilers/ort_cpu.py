"""Cost of every group of nodes on onnxruntime's CPU provider, measured inside the running model.

The whole model runs as it is deployed with onnxruntime's own profiler on, and again with no optimisation. The first says what
each fused kernel costs in place (sums of isolated nodes are 0.9 to 2.1 times the truth); the second gives the shape of
every value and the price of each node unfused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cutset.advisory import advisory
from cutset.graph.model import ModelGraph
from cutset.profilers.attribution import Group
from cutset.profilers.bodies import time_bodies
from cutset.profilers.cpu_runs import CpuRuns, Fused
from cutset.profilers.gauge import gauge, keep, recall
from cutset.profilers.inputs import sizes_of
from cutset.profilers.options import ProfileOptions
from cutset.profilers.session import Arrays, fit_together, release_memory
from cutset.profilers.table import Latency
from cutset.profilers.timing import at_own_speed, repeat, summarise

ALONE_SHARE, LOADED_SHARE, TRACED_SHARE, BODIES_SHARE = 0.1, 0.2, 0.5, 0.2
"""How the time to repeat runs is divided among the measurements; in the third, traced runs take turns with others alone, and
it also has the time of the second where that is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuProfile:
    """What one model costs on the CPU at one input size.

    Args:
        session: Latency of the whole model, profiler off.
        loaded: The same while `workers` requests run at once on as many threads; None for one worker.
        workers: How many that were.
        groups: Nodes that run as one unit.
        group_s: Seconds of each group; they sum to the session's median.
        unfused_s: Seconds of each node with every optimisation off.
        shapes: Observed shape of every value that was seen.
        dtypes: Observed element type of the same values.
        kernel_sum_ratio: Sum of the kernel times without the profiler's own cost over the median of the session that ran
            in turns with the traced one, before scaling: how well they add up. Below one by what the call itself takes.
    """

    session: Latency
    groups: tuple[Group, ...]
    group_s: tuple[float, ...]
    unfused_s: Mapping[str, float]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    kernel_sum_ratio: float
    loaded: Latency | None = None
    workers: int = 1


def profile_cpu(
    graph: ModelGraph,
    inputs: Arrays,
    *,
    options: ProfileOptions | None = None,
    workers: int = 1,
    progress: Callable[[str], None] = lambda _text: None,
) -> CpuProfile:
    """Return the measured cost of every group of `graph` on these inputs.

    Args:
        graph: The model.
        inputs: One array a graph input.
        options: Intra-op threads, seconds to repeat the run (alone, loaded and traced together), and how far onnxruntime
            may rewrite the graph: what it fuses there are the groups. The defaults when None; batch is not used, and of the
            cache only what the gauge took before.
        workers: Requests that run at once in the loaded measurement; it is left out for one.
        progress: Told what is being measured.

    Raises:
        ProfileError: If the model does not run on these inputs.
        ModelError: If onnxruntime does not load the model.
    """
    options = options or ProfileOptions()
    budget_s = options.budget_s
    recall(options.cache)
    with tempfile.TemporaryDirectory(prefix="cutset-profile-") as folder:
        work = CpuRuns(graph, Path(folder), options.threads, options.optimization)
        feed = work.feed(inputs)
        progress("running the model unfused for its shapes")
        unfused_s, shapes, dtypes = work.unfused(feed)
        progress("timing the whole model")
        call = partial(work.run, work.open(), feed)
        runs = repeat(call, budget_s=ALONE_SHARE * budget_s, speed=gauge())
        loaded_s = LOADED_SHARE * budget_s if workers > 1 else 0.0
        loaded = None
        with advisory("timing the model while every core is busy"):
            loaded = work.loaded(call, loaded_s, workers) if workers > 1 else None
        beside = call if fit_together([work.model, work.model]) else None
        del call
        progress("profiling its kernels")
        fused = _unfused(graph, unfused_s)
        with advisory("telling which nodes a kernel runs, so that each node is priced alone"):
            fused = work.fused(feed, (TRACED_SHARE + LOADED_SHARE) * budget_s - loaded_s, beside)
        del beside
        observed = graph.with_measured({**shapes, **sizes_of(inputs)}, dtypes)
        body_s = time_bodies(
            observed,
            inputs,
            dict(zip((group.nodes for group in fused.groups), fused.seconds, strict=True)),
            options=replace(options, budget_s=BODIES_SHARE * budget_s),
            progress=progress,
        )
        group_s = [body_s.get(group.nodes, seconds) for group, seconds in zip(fused.groups, fused.seconds, strict=True)]
        latency = summarise(at_own_speed([*runs, *fused.beside], gauge()), threads=options.threads)
    keep(options.cache)
    release_memory()
    total = sum(group_s)
    scale = latency.median / total if total > 0 else 0.0
    return CpuProfile(
        session=latency,
        groups=fused.groups,
        group_s=tuple(seconds * scale for seconds in group_s),
        unfused_s=unfused_s,
        shapes={**shapes, **sizes_of(inputs)},
        dtypes=dtypes,
        kernel_sum_ratio=_ratio(fused, total, latency),
        loaded=loaded,
        workers=workers,
    )


def _unfused(graph: ModelGraph, seconds: Mapping[str, float]) -> Fused:
    """Return every node as a group of its own, for a model whose kernels cannot be told apart."""
    groups = tuple(Group(nodes=(node.name,), kernels=()) for node in graph.nodes)
    return Fused(groups=groups, seconds=tuple(seconds.get(node.name, 0.0) for node in graph.nodes), beside=(), ratio=None)


def _ratio(fused: Fused, total: float, latency: Latency) -> float:
    """Return the sum of the kernels over the whole session; of bodies timed by themselves, by what they change of it."""
    alone = sum(fused.seconds)
    if fused.ratio is None:
        return total / latency.median if latency.median else 0.0
    return fused.ratio * total / alone if alone else 0.0


def observe_shapes(graph: ModelGraph, inputs: Arrays) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the shape and element type of every value in one unoptimised run on `inputs`.

    Raises:
        ProfileError: If the model does not run on these inputs.
    """
    with tempfile.TemporaryDirectory(prefix="cutset-profile-") as folder:
        work = CpuRuns(graph, Path(folder), threads=1, timed=False)
        _, shapes, dtypes = work.unfused(work.feed(inputs))
    return {**shapes, **sizes_of(inputs)}, dtypes


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one model is on the CPU at one input size, untimed: its groups, and shape and element type of every value."""

    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]


def observe(graph: ModelGraph, inputs: Arrays, *, threads: int = 1) -> Observed:
    """Return the groups and shapes that `profile_cpu` would find, after one run: for who prices them on another device.

    Args:
        graph: The model.
        inputs: One array a graph input.
        threads: Intra-op threads of the run; the groups do not depend on them.

    Raises:
        ProfileError: If the model does not run on these inputs.
        ModelError: If onnxruntime does not load the model.
    """
    with tempfile.TemporaryDirectory(prefix="cutset-profile-") as folder:
        work = CpuRuns(graph, Path(folder), threads, timed=False)
        _, shapes, dtypes = work.unfused(work.feed(inputs), runs=1)
        work.open(optimized_model_filepath=str(work.optimised))
        return Observed(groups=tuple(work.attributed()[1]), shapes={**shapes, **sizes_of(inputs)}, dtypes=dtypes)
