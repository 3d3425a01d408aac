"""What is left of fused groups that a device refuses in part: each piece is cut out, optimised and measured by itself.

A kernel of the whole session does the work of a group. Where some of the group's nodes must stay on the CPU, what they
cost alone was never part of that session, and their price with every optimisation off is up to four times too high
(a convolution whose quantisation the GPU refuses). Pieces that compute the same are measured once, and kept for every
model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime as ort

from cutset import serde
from cutset.graph.model import ModelGraph
from cutset.profilers.cache import METHOD
from cutset.profilers.child import Failure, map_in_child
from cutset.profilers.environment import cpu_name, usable_cores
from cutset.profilers.gauge import gauge
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_child import KernelTime, SessionJob, time_kernels
from cutset.profilers.segments import Segment, boundary_values, segment_of, write_segment
from cutset.profilers.session import Arrays
from cutset.profilers.signature import sign
from cutset.profilers.table import CostTable, GroupCost

PIECE_S = 0.05
"""Seconds to repeat one piece."""

PIECES_SHARE = 1 / 3
"""Time for all pieces, over the time to repeat runs of the whole model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    segment: Segment
    signature: str
    canonical: tuple[str, ...]


def with_pieces(
    graph: ModelGraph,
    table: CostTable,
    inputs: Arrays,
    pieces: Sequence[tuple[str, ...]],
    options: ProfileOptions,
    progress: Callable[[str], None] = lambda _text: None,
) -> CostTable:
    """Return `table` with the measured cost of each piece on the CPU, as far as time allows.

    Args:
        graph: The model, with the shapes of the run.
        table: Its costs.
        inputs: The complete inputs that the table was measured on.
        pieces: Node names of each, the most important first; those that the table has are passed over.
        options: How to measure; all pieces together take a third of ``budget_s``.
        progress: Told what is being measured.

    Raises:
        ProfileError: If the model does not run on `inputs`.
    """
    known = {piece.nodes for piece in table.pieces}
    wanted = {nodes: _piece(graph, nodes) for nodes in pieces if nodes not in known}
    if not wanted:
        return table
    distinct = {piece.signature or repr(nodes): piece for nodes, piece in wanted.items()}
    times = {key: _stored(options, piece) for key, piece in distinct.items()}
    missing = [key for key, found in times.items() if found is None]
    if missing:
        progress(f"measuring {len(missing)} pieces of groups that the GPU takes in part")
        times |= _measured(graph, inputs, {key: distinct[key] for key in missing}, options)
    costs = []
    for nodes, piece in wanted.items():
        found = times[piece.signature or repr(nodes)]
        if found is not None:
            costs.append(_cost(piece, nodes, found, options.batch))
    return replace(table, pieces=(*table.pieces, *costs))


def _piece(graph: ModelGraph, nodes: tuple[str, ...]) -> _Piece:
    signature = sign(graph, nodes)
    return _Piece(segment=segment_of(graph, nodes), signature=signature.digest, canonical=signature.canonical)


def _measured(
    graph: ModelGraph, inputs: Arrays, pieces: dict[str, _Piece], options: ProfileOptions
) -> dict[str, KernelTime | None]:
    """Return the time of each piece, None for those that failed or for which there was no time left."""
    values = boundary_values(graph, inputs, [piece.segment for piece in pieces.values()])
    most = int(PIECES_SHARE * options.budget_s / PIECE_S)
    with tempfile.TemporaryDirectory(prefix="cutset-pieces-") as folder:

        def jobs() -> Iterator[SessionJob]:
            for index, piece in enumerate(islice(pieces.values(), most)):
                model = Path(folder) / f"{index}.onnx"
                write_segment(graph, piece.segment, model)
                feed = {name: values[name] for name in piece.segment.inputs}
                yield SessionJob(
                    model=model, feed=feed, threads=options.threads, budget_s=PIECE_S, custom_ops=graph.custom_ops,
                    level=options.optimization, gauge_s=gauge().own_s,
                )  # fmt: skip

        found = map_in_child(time_kernels, jobs())
    result: dict[str, KernelTime | None] = dict.fromkeys(pieces)
    for (key, piece), seconds in zip(pieces.items(), found, strict=False):
        if not isinstance(seconds, Failure):
            result[key] = seconds
            if piece.signature:
                options.cache.put(_key(options, piece), serde.to_builtins(seconds))
    return result


def _stored(options: ProfileOptions, piece: _Piece) -> KernelTime | None:
    stored = options.cache.get(_key(options, piece)) if piece.signature else None
    try:
        return None if stored is None else msgspec.convert(stored, KernelTime)
    except msgspec.ValidationError:
        return None


def _key(options: ProfileOptions, piece: _Piece) -> dict[str, Any]:
    return {
        "piece": piece.signature,
        "method": METHOD,
        "onnxruntime": ort.__version__,
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": options.threads,
        "optimization": options.optimization,
    }


def _cost(piece: _Piece, nodes: tuple[str, ...], found: KernelTime, batch: int) -> GroupCost:
    return GroupCost(
        nodes=nodes,
        device="cpu",
        backend="onnxruntime-cpu",
        batch=batch,
        latency_s=found.seconds,
        low_s=found.low_s,
        high_s=found.high_s,
        source="measured",
        signature=piece.signature,
        canonical=piece.canonical,
    )
