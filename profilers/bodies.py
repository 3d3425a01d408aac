"""Time nodes with bodies (If, Loop, Scan) by themselves.

The profiler writes an event for every node of every iteration, all inside the time of the node around them; that can be many
times what the node takes. Run as a model of its own, with the profiler off, it shows its time.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cutset.advisory import advisory
from cutset.errors import CutsetError
from cutset.graph.model import ModelGraph, iter_bodies
from cutset.profilers.gauge import gauge
from cutset.profilers.options import ProfileOptions
from cutset.profilers.segments import boundary_values, segment_of, write_segment
from cutset.profilers.session import Arrays, open_session, run, session_options
from cutset.profilers.timing import at_own_speed, repeat, summarise

LEAST_SHARE = 0.02
"""Share of the whole above which a group with a body is worth it."""


def time_bodies(
    graph: ModelGraph,
    inputs: Arrays,
    groups: Mapping[tuple[str, ...], float],
    *,
    options: ProfileOptions,
    progress: Callable[[str], None] = lambda _text: None,
) -> dict[tuple[str, ...], float]:
    """Return the seconds of each group with a body as a model of its own; one that does not run that way is left out.

    Args:
        graph: The model, with the shapes of the run on `inputs`.
        inputs: One array a graph input.
        groups: Names of the nodes that run as one unit, and their seconds inside the whole.
        options: Intra-op threads, seconds to repeat each, and how far onnxruntime may rewrite the graph.
        progress: Told what is being measured.
    """
    least_s = LEAST_SHARE * sum(groups.values())
    found: dict[tuple[str, ...], float] = {}
    for nodes, seconds in groups.items():
        if seconds <= least_s or not has_body(graph, nodes):
            continue
        progress("timing what has a body by itself")
        with advisory("timing what has a body by itself", f"node `{nodes[0]}`"), contextlib.suppress(CutsetError):
            found[nodes] = _alone(graph, inputs, nodes, options)  # else the time inside the whole stands
    return found


def has_body(graph: ModelGraph, nodes: Sequence[str]) -> bool:
    """Return whether one of the nodes has a body."""
    return any(True for name in nodes for _ in iter_bodies(graph.ir_nodes[name]))


def _alone(graph: ModelGraph, inputs: Arrays, nodes: Sequence[str], options: ProfileOptions) -> float:
    segment = segment_of(graph, nodes)
    values = boundary_values(graph, inputs, [segment])
    with tempfile.TemporaryDirectory(prefix="cutset-bodies-") as folder:
        model = Path(folder) / "body.onnx"
        write_segment(graph, segment, model)
        settings = session_options(threads=options.threads, level=options.optimization)
        session = open_session(model, custom_ops=graph.custom_ops, options=settings, where=str(graph.path))
        feed = {name: values[name] for name in segment.inputs}
        runs = repeat(lambda: run(session, feed), budget_s=options.budget_s, speed=gauge())
    return summarise(at_own_speed(runs, gauge()), threads=options.threads).median
