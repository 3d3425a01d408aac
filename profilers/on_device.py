"""GPU costs measured on a GPU of this machine: the CUDA provider in place, and copies both ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cutset import serde
from cutset.errors import UnavailableError
from cutset.graph.model import ModelGraph
from cutset.profilers.child import Failure
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_cuda import CUDA_BACKEND, group_costs, profile_cuda
from cutset.profilers.session import Arrays
from cutset.profilers.table import CostTable, SessionCost
from cutset.profilers.transfer import profile_transfers


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredGpu:
    """A GPU of this machine, by its number as CUDA counts them."""

    device: int = 0


def with_measured_gpu(
    graph: ModelGraph,
    table: CostTable,
    inputs: Arrays,
    gpu: MeasuredGpu,
    options: ProfileOptions,
    progress: Callable[[str], None],
) -> CostTable:
    """Return `table` with measured costs of every group on a GPU of this machine, and of copies to and from it.

    Args:
        graph: The model, with the shapes of the run.
        table: Costs of the CPU.
        inputs: What to run it on.
        gpu: Which device.
        options: How to measure.
        progress: Told what is being measured.

    Raises:
        UnavailableError: If the GPU or its libraries fail; the cause is theirs.
    """
    progress(f"measuring copies to and from GPU {gpu.device}")
    copies = profile_transfers(gpu.device)
    if isinstance(copies, Failure):
        raise _unavailable(gpu, copies)
    progress(f"profiling the model on {copies.device}")
    found = profile_cuda(graph, inputs, device=gpu.device, threads=options.threads, budget_s=options.budget_s / 2)
    if isinstance(found, Failure):
        raise _unavailable(gpu, found)
    session = SessionCost(
        device="gpu",
        backend=CUDA_BACKEND,
        batch=options.batch,
        threads=options.threads,
        latency_s=found.session.latency,
        source="measured",
    )
    return replace(
        table,
        target={
            "id": f"cuda:{gpu.device}",
            "name": copies.device,
            "source": "measured",
            "device_bytes": found.session.device_bytes,
            "kernel_sum_ratio": found.kernel_sum_ratio,
            "state": serde.to_builtins(found.session.state),
        },
        sessions=(*table.sessions, session),
        groups=table.groups + group_costs(found, table.groups_on("cpu"), batch=options.batch),
        transfers=copies.models(),  # pageable: the runtime's arrays are
    )


def seen_on_device(table: CostTable) -> frozenset[str]:
    """Return the nodes that a GPU was seen to run in the CUDA provider, here or where the costs were recorded."""
    ran = (
        group
        for group in table.groups_on("gpu")
        if group.backend == CUDA_BACKEND and group.source != "modelled" and group.latency_s is not None
    )
    return frozenset(name for group in ran for name in group.nodes)


def _unavailable(gpu: MeasuredGpu, failure: Failure) -> UnavailableError:
    return UnavailableError(
        f"GPU {gpu.device} of this machine could not be measured",
        cause=failure.detail,
        hint="`cutset doctor` says what is missing; a GPU can also be named (--target t4) or replayed (--target FILE.json)",
    )
