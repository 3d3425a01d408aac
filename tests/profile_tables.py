"""Hand-made cost tables: groups, sessions and whole profiles with plausible defaults."""

from __future__ import annotations

from typing import Any

from cutset.profilers.table import ClassWork, CostTable, GroupCost, Latency, ModelFile, SessionCost, TransferModel

TRANSFERS = tuple(
    TransferModel(direction=direction, pinned=True, fixed_s=1e-5, bytes_per_s=1e10, source="measured")
    for direction in ("h2d", "d2h")
)


def make_group(name: str, latency_s: float | None = 1e-4, *, device: str = "cpu", **fields: Any) -> GroupCost:
    """Return a measured group of one node (or of `canonical`) with an interval of 10 % either way."""
    nodes = fields.pop("canonical", (name,))
    defaults: dict[str, Any] = {
        "nodes": nodes,
        "canonical": nodes,
        "backend": "onnxruntime-cpu" if device == "cpu" else "tensorrt",
        "batch": 1,
        "low_s": None if latency_s is None else latency_s * 0.9,
        "high_s": None if latency_s is None else latency_s * 1.1,
        "source": "measured",
        "signature": f"signature of {name}",
        "work": {"elementwise": ClassWork(launches=1, flops=1000, bytes=1000)},
    }
    return GroupCost(device=device, latency_s=latency_s, **(defaults | fields))


def make_session(median: float, *, device: str = "cpu", batch: int = 1, samples: int = 25, spread: float = 0.05) -> SessionCost:
    """Return a measured session whose deciles are `spread` from its median."""
    latency = Latency(median=median, p10=median * (1 - spread), p90=median * (1 + spread), samples=samples)
    return SessionCost(device=device, backend="onnxruntime-cpu", batch=batch, threads=1, latency_s=latency, source="measured")


def make_table(*groups: GroupCost, sha256: str = "a" * 64, cpu: str = "Some CPU", **fields: Any) -> CostTable:
    """Return a profile of `groups`; its CPU session takes as long as the groups there."""
    total = sum(group.latency_s or 0.0 for group in groups if group.device == "cpu")
    on_gpu = any(group.device == "gpu" for group in groups)
    defaults: dict[str, Any] = {
        "model": ModelFile(file="m.onnx", sha256=sha256, nodes=len(groups)),
        "target": {"id": "t4", "name": "NVIDIA T4", "source": "measured"} if on_gpu else None,
        "environment": {"cpu": cpu, "usable_cores": 2, "packages": {"onnxruntime": "1.20"}, "load_average": [1.0, 1.0, 1.0]},
        "shapes": {"x": (1, 4)},
        "sessions": (make_session(total),) if total else (),
        "transfers": TRANSFERS if on_gpu else (),
    }
    return CostTable(groups=groups, **(defaults | fields))
