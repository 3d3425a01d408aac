"""Cost of every node on onnxruntime's CUDA provider, measured inside the running model, in child processes.

The method is `ort_cpu`'s: the kernels of the optimised session, attributed to original nodes and scaled to the latency of
the whole session. What differs on a GPU: kernels are traced with ``CUDA_LAUNCH_BLOCKING=1``, for without it an event
covers the launch and not the work; the latency is taken in another process without it, inputs and outputs on the device;
and nodes that onnxruntime leaves on the CPU inside a CUDA session are found by the provider that their kernel names.
A node that fails in a run is refused, too, and the model is measured around it, fed with what the node writes on the CPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np
import onnx

from cutset.errors import CutsetError, ProfileError
from cutset.graph.extract import write_anonymous
from cutset.graph.model import ModelGraph
from cutset.profilers.attribution import Group, Kernel, attribute, kernels_of, named_nodes
from cutset.profilers.child import DEFAULT_LIMITS, Failure, Limits, Worker
from cutset.profilers.ort_child import SessionJob, SessionTime, time_session, trace_session
from cutset.profilers.pooling import pooled
from cutset.profilers.refusals import COPY_OPS, MAX_REFUSED, around, failed_node, left_on_host
from cutset.profilers.segments import boundary_values
from cutset.profilers.session import Arrays
from cutset.profilers.table import GroupCost
from cutset.profilers.trace import KernelEvent

CUDA_BACKEND = "onnxruntime-cuda"
KERNEL_PERCENTILE = 20
SYNCHRONOUS = {"CUDA_LAUNCH_BLOCKING": "1"}

_UNFUSED_BUDGET_S = 0.0  # `repeat`'s least number of runs
_LOOKED_THROUGH = "ReorderOutput"  # what attribution takes for a kernel that moves a value and computes nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """What one model costs in a session of onnxruntime on one device, at one input size.

    Args:
        session: The whole model, inputs on the device; without the nodes that fail there.
        groups: Nodes that run as one unit there; other units than on the CPU as a rule.
        group_s: Seconds of each group; they sum to the session's median.
        unfused_s: Seconds of each node with every optimisation off.
        refused: Why the device does not run a node, for those it does not; one that fails there is a group without time.
        kernel_sum_ratio: Sum of the raw kernel times over the session's median, before scaling; above one on a GPU,
            where the trace waits for each kernel.
    """

    session: SessionTime
    groups: tuple[Group, ...]
    group_s: tuple[float, ...]
    unfused_s: Mapping[str, float]
    refused: Mapping[str, str]
    kernel_sum_ratio: float

    def node_seconds(self) -> dict[str, float]:
        """Return the seconds of each node: its share of its group by the unfused times."""
        found: dict[str, float] = {}
        for group, seconds in zip(self.groups, self.group_s, strict=True):
            weights = np.array([self.unfused_s.get(name, 0.0) for name in group.nodes])
            total = weights.sum()
            shares = weights / total if total > 0 else np.full(len(weights), 1 / len(weights))
            found.update(zip(group.nodes, (float(share) * seconds for share in shares), strict=True))
        return found


def profile_cuda(
    graph: ModelGraph,
    inputs: Arrays,
    *,
    device: int = 0,
    threads: int = 1,
    budget_s: float = 3.0,
    limits: Limits = DEFAULT_LIMITS,
) -> DeviceProfile | Failure:
    """Return the measured cost of `graph` on onnxruntime's CUDA provider, or why there is none.

    Args:
        graph: The model.
        inputs: One array a graph input.
        device: Device number as CUDA counts them.
        threads: Intra-op threads of the nodes that stay on the CPU.
        budget_s: Seconds to spend repeating each of the two optimised runs.
        limits: Of each of the three calls of a child.
    """
    job = SessionJob(
        model=Path(), feed=inputs, cuda_device=device, threads=threads, budget_s=budget_s, custom_ops=graph.custom_ops
    )
    return profile_session(graph, job, limits=limits)


class Children:
    """The two processes that measure: one for latencies, one for traces, which waits for each kernel; a context manager.

    Args:
        limits: Of each call.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.free = Worker(limits=limits)
        self.waiting = Worker(limits=limits, environment=SYNCHRONOUS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.free.close()
        self.waiting.close()


def profile_session(
    graph: ModelGraph, job: SessionJob, *, limits: Limits = DEFAULT_LIMITS, children: Children | None = None
) -> DeviceProfile | Failure:
    """Return the measured cost of `graph` as `job` says to run it; its model and names are filled in here.

    While a run fails at a node, that node is refused and the rest is measured, `MAX_REFUSED` times at most.

    Args:
        graph: The model.
        job: Device, budget and the inputs by their names in `graph`.
        limits: Of each of the three calls of a child.
        children: Processes to measure in, for who profiles many; new ones when None.
    """
    if children is None:
        with Children(limits) as fresh:
            return profile_session(graph, job, children=fresh)
    failing: dict[str, str] = {}
    found = _measured(graph, job, children, failing)
    while isinstance(found, Failure) and len(failing) < MAX_REFUSED:
        more = {name: reason for name, reason in _failing(graph, found).items() if name not in failing}
        if not more:
            break
        failing |= more
        try:
            found = _measured(graph, job, children, failing)
        except CutsetError:  # the CPU cannot run it either, or nothing else is left
            break
    return found


def _failing(graph: ModelGraph, failure: Failure) -> dict[str, str]:
    """Return why each node that a failure names cannot be run; memory that runs out in a node is not the node's fault."""
    failed = failed_node(failure.detail) if failure.kind == "raised" else None
    return dict.fromkeys(named_nodes(graph, failed.name), failed.reason) if failed else {}


def _measured(graph: ModelGraph, job: SessionJob, children: Children, failing: Mapping[str, str]) -> DeviceProfile | Failure:
    """Return the measured cost of `graph` without the nodes that fail."""
    rest = around(graph, failing)
    feed = {**job.feed, **boundary_values(graph, job.feed, [rest])} if failing else job.feed
    with tempfile.TemporaryDirectory(prefix="cutset-profile-") as folder:
        model, optimised = Path(folder) / "model.onnx", Path(folder) / "optimised.onnx"
        originals = write_anonymous(graph, model, inputs=rest.inputs, outputs=rest.outputs)
        anonymous = {original: name for name, original in originals.items()}
        job = replace(job, model=model, feed={anonymous[name]: value for name, value in feed.items()})
        session = children.free.ask(time_session, job)
        if isinstance(session, Failure):
            return session
        unfused = children.waiting.ask(trace_session, replace(job, level="none", budget_s=_UNFUSED_BUDGET_S))
        if isinstance(unfused, Failure):
            return unfused
        fused = children.waiting.ask(trace_session, replace(job, optimised_model=optimised))
        if isinstance(fused, Failure):
            return fused
        kernels = kernels_of(onnx.load(str(optimised), load_external_data=False).graph)
    traces = Traces(session=session, fused=fused, unfused=unfused)
    return assemble(graph, kernels, originals, traces, job.cuda_device, failing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What the children saw: the whole session, and the kernel events of the optimised and the unoptimised one."""

    session: SessionTime
    fused: Sequence[KernelEvent]
    unfused: Sequence[KernelEvent]


def assemble(
    graph: ModelGraph,
    kernels: Sequence[Kernel],
    originals: Mapping[str, str],
    traces: Traces,
    cuda_device: int | None,
    failing: Mapping[str, str] = MappingProxyType({}),
) -> DeviceProfile:
    """Return the costs that follow from the traces.

    Args:
        graph: The model.
        kernels: Kernels of the optimised session.
        originals: Original value name of each anonymous one.
        traces: What the children saw.
        cuda_device: None where the session was the CPU's, on which nothing is refused for its place.
        failing: Why each node that was left out cannot be run.

    Raises:
        ProfileError: If the trace names none of the kernels.
    """
    known = {kernel.name for kernel in kernels}
    events = [event for event in traces.fused if event.name in known]  # bodies lie inside their parent's time
    if kernels and not events:
        raise ProfileError("onnxruntime's profile names none of the model's kernels", where=str(graph.path))
    times = _by_name(events)
    kernels = [*kernels, *_without_time(graph, failing)]
    groups = attribute(graph, [_looked_through(kernel) for kernel in kernels], originals)
    raw = [
        sum(float(np.percentile(times[kernels[k].name], KERNEL_PERCENTILE)) for k in group.kernels if kernels[k].name in times)
        for group in groups
    ]
    total, latency_s = sum(raw), traces.session.latency.median
    scale = latency_s / total if total > 0 else 0.0
    nodes = {f"n{index}": node.name for index, node in enumerate(graph.nodes)}
    host = left_on_host(graph, groups, kernels, events) if cuda_device is not None else {}
    return DeviceProfile(
        session=traces.session,
        groups=tuple(groups),
        group_s=tuple(seconds * scale for seconds in raw),
        unfused_s={nodes[name]: min(found) for name, found in _by_name(traces.unfused).items() if name in nodes},
        refused={**host, **failing},
        kernel_sum_ratio=total / latency_s if latency_s else 0.0,
    )


def group_costs(profile: DeviceProfile, groups: Sequence[GroupCost], *, batch: int) -> tuple[GroupCost, ...]:
    """Return the GPU costs of the CPU's groups, as a `CostTable` holds them beside the CPU's.

    The GPU's own units are other sets of nodes than the CPU's; their times go to nodes, and are summed over each given
    group. A group is refused where a node of it is. What a group computes is taken over, so that its cost can be replayed.

    Args:
        profile: What was measured.
        groups: The groups, priced for the CPU or not at all.
        batch: Samples in one run.
    """
    seconds_of = profile.node_seconds()
    latency = profile.session.latency
    low, high = latency.spread
    found = []
    for group in groups:
        reasons = dict.fromkeys(profile.refused[name] for name in group.nodes if name in profile.refused)
        seconds = None if reasons else sum(seconds_of.get(name, 0.0) for name in group.nodes)
        found.append(
            replace(
                group,
                device="gpu",
                backend=CUDA_BACKEND,
                batch=batch,
                latency_s=seconds,
                low_s=None if seconds is None else seconds * low,
                high_s=None if seconds is None else seconds * high,
                source="measured",
                unfused_s={name: profile.unfused_s[name] for name in group.nodes if name in profile.unfused_s},
                reason="; ".join(reasons),
            )
        )
    return pooled(found)


def _by_name(events: Sequence[KernelEvent]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for event in events:
        found.setdefault(event.name, []).append(event.seconds)
    return found


def _looked_through(kernel: Kernel) -> Kernel:
    """Return a copy between host and device as what attribution looks through: it writes the value, another made it."""
    return replace(kernel, op_type=_LOOKED_THROUGH) if kernel.op_type in COPY_OPS else kernel


def _without_time(graph: ModelGraph, failing: Mapping[str, str]) -> list[Kernel]:
    """Return a kernel for each node that was left out, which no event names: so that no other's time is taken for its own."""
    return [
        Kernel(name=f"n{graph.position[name]}", op_type=graph.by_name[name].op.op_type, inputs=(), outputs=())
        for name in failing
    ]
