"""How to measure: what every profiler is told alike."""

from __future__ import annotations

from dataclasses import dataclass, field

from cutset.profilers.cache import CostCache
from cutset.profilers.datasheets import Precision
from cutset.profilers.table import OptimizationLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """How to measure.

    Args:
        threads: Intra-op threads of the CPU session, as deployed.
        batch: Samples in one run; above one, batches 1, middle and `batch` are measured and fitted.
        budget_s: Seconds to repeat runs of one input size, on one device.
        cache: Where measured costs are kept.
        optimization: How far onnxruntime may rewrite the graph; packages are deployed with ``all``.
        precision: Of the GPU stages, where their costs are modelled.
        fresh: Whether to measure the model although the cache knows its costs.
    """

    threads: int = 1
    batch: int = 1
    budget_s: float = 6.0
    cache: CostCache = field(default_factory=lambda: CostCache(None))
    optimization: OptimizationLevel = "all"
    precision: Precision = "fp32"
    fresh: bool = False
