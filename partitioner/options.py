"""What the user wants of a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cutset.partitioner.cost import Machine
from cutset.partitioner.cut import Flow
from cutset.partitioner.plan import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What to plan for.

    Args:
        name: Served model name.
        objective: ``throughput`` or ``latency``.
        max_stages: Most stages of the pipeline.
        machine: Workers, cores, batch.
        threads: Intra-op threads of a CPU session.
        min_gpu_nodes: GPU stages with fewer fused groups than this are not worth building.
        flow: Engine of the minimum cut.
        seed: Seed of the polish.
        exact_s: Seconds for the exact planner after the search, None to do without.
        gpu_memory_bytes: Most bytes of weights on the GPU.
        slo_s: Seconds within which a request that was let in is to be answered, None for no target.
    """

    name: str
    machine: Machine
    objective: Objective = "throughput"
    max_stages: int = 5
    threads: int = 1
    min_gpu_nodes: int = 0
    flow: Flow = "scipy"
    seed: int = 0
    exact_s: float | None = None
    gpu_memory_bytes: float = math.inf
    slo_s: float | None = None
