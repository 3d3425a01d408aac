"""GPU costs of nodes as shares of a run that several requests share, measured on a GPU of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from cutset.graph.rows import with_fixed_rows
from cutset.profilers.child import Failure
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_cuda import DeviceProfile, profile_cuda
from cutset.profilers.table import CostTable, GroupCost


@dataclass(frozen=True, slots=True, kw_only=True)
class JointRun:
    """A part of a model that several requests share.

    Args:
        model: Its file, of any number of rows; another is written beside it.
        axis: Name of the dimension that counts them.
        feed: Its inputs for one request.
        rows: Requests of a run.
    """

    model: Path
    axis: str
    feed: Mapping[str, Any] = field(repr=False)
    rows: int


def with_shared_runs(
    graph: ModelGraph, table: CostTable, joint: JointRun, options: ProfileOptions, progress: Callable[[str], None]
) -> CostTable | Failure:
    """Return the table with the costs of a part of the model as shares of a joint run.

    Args:
        graph: The whole model.
        table: Its costs, with those of a GPU of this machine.
        joint: The part, and how many requests share it.
        options: How to measure.
        progress: Told what is being measured.
    """
    model, rows = joint.model, joint.rows
    device = int(str((table.target or {})["id"]).rpartition(":")[2])
    fixed = model.with_name(f"{model.stem}.{rows}.onnx")
    fixed.write_bytes(with_fixed_rows(onnx.load(str(model), load_external_data=False), joint.axis, rows).SerializeToString())
    part = load(fixed, custom_ops=graph.custom_ops)
    progress(f"profiling {len(part.placeable)} nodes on the GPU with {rows} requests in a run")
    joined = {name: np.concatenate([value] * rows) for name, value in joint.feed.items()}
    found = profile_cuda(part, joined, device=device, threads=options.threads, budget_s=options.budget_s / 2)
    if isinstance(found, Failure):
        return found
    return shared_out(table, found, rows, frozenset(node.name for node in part.nodes) - graph.unplaced, graph.unplaced)


def shared_out(
    table: CostTable, profile: DeviceProfile, rows: int, nodes: frozenset[str], unplaced: frozenset[str]
) -> CostTable:
    """Return the table with the profile of a joint run shared out evenly to its requests.

    Args:
        table: Costs of a run for one request.
        profile: Of the joint run.
        rows: Its requests.
        nodes: The nodes in it.
        unplaced: Nodes that no placement is about.
    """
    seconds, latency = profile.node_seconds(), profile.session.latency
    low, high = latency.spread

    def share(group: GroupCost) -> GroupCost:
        live = [name for name in group.nodes if name not in unplaced]
        if group.device != "gpu" or group.latency_s is None or not live or not nodes.issuperset(live):
            return group
        reasons = dict.fromkeys(profile.refused[name] for name in live if name in profile.refused)
        if reasons:
            return replace(group, latency_s=None, low_s=None, high_s=None, reason="; ".join(reasons))
        share_s = sum(seconds.get(name, 0.0) for name in live) / rows
        unfused_s = {name: profile.unfused_s[name] / rows for name in live if name in profile.unfused_s}
        return replace(
            group, latency_s=share_s, low_s=share_s * low, high_s=share_s * high, unfused_s=unfused_s,
            alone_s=group.latency_s if group.alone_s is None else group.alone_s, rows=rows,
        )  # fmt: skip

    return replace(table, groups=tuple(map(share, table.groups)))
