"""Find the cuts that change a model's numbers, and the nodes to keep together so that no later plan makes those cuts.

A cut changes numbers where onnxruntime computes across it: it fuses a quantised product with its scales, or rounds
elsewhere. Most models do not show that; one that rounds to eight bits between layers can amplify it to percents.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cutset.codegen.numerics import Tolerance
from cutset.codegen.precision.search import fewest
from cutset.codegen.verify import PartsDifferError, Reference, Runner, verify_against
from cutset.graph.extract import write_part
from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Part, Stage, form_stages
from cutset.profilers.session import Arrays, open_session, release_memory, run, session_options

MOST_TESTS = 12
"""Sets of cuts that are tried; each takes a run of all parts on every sample."""


def cuts_at_fault(graph: ModelGraph, stages: Sequence[Stage], samples: Sequence[Arrays], tolerance: Tolerance) -> list[int]:
    """Return few cuts without which the parts give the whole model's numbers; none where the cuts are not at fault.

    Args:
        graph: The whole model.
        stages: Of a plan whose parts differ.
        samples: Complete inputs.
        tolerance: What is close enough.

    Returns:
        Cuts by the index of the stage behind them, in order.
    """
    whole = Reference.of(graph, samples)

    def passes(removed: frozenset[int]) -> bool:
        return _equal(whole, _joined(graph, stages, removed), tolerance)

    if passes(frozenset()):
        return []
    return sorted(fewest(range(1, len(stages)), passes, most_tests=MOST_TESTS))


def parted_by(graph: ModelGraph, stages: Sequence[Stage], cut: int, groups: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the sets of nodes that a cut parts: writer and readers of each crossing value, or their whole fused group.

    Args:
        graph: The whole model.
        stages: Of a plan.
        cut: Index of the stage behind the cut.
        groups: What onnxruntime fuses in the whole model: where a value crosses inside a group, all of that is parted.
    """
    behind = {name for stage in stages[cut:] for name in stage.nodes}
    before = {name for stage in stages[:cut] for name in stage.nodes}
    home = {name: tuple(group) for group in groups for name in group}
    found: dict[tuple[str, ...], None] = {}
    for writer in before:
        readers = [n for value in graph.by_name[writer].outputs for n in graph.consumers.get(value, ()) if n in behind]
        joined = {writer, *readers}
        for reader in readers:
            if reader in home.get(writer, ()):
                joined |= set(home[writer]) - graph.unplaced
        if readers:
            found[tuple(sorted(joined, key=graph.position.__getitem__))] = None
    return sorted(found, key=lambda nodes: [graph.position[name] for name in nodes])


def _joined(graph: ModelGraph, stages: Sequence[Stage], removed: frozenset[int]) -> tuple[Stage, ...]:
    """Return the stages with some of the cuts between them removed."""
    starts = [0, *(index for index in range(1, len(stages)) if index not in removed), len(stages)]
    sets = [[name for stage in stages[first:last] for name in stage.nodes] for first, last in pairwise(starts)]
    parts = [Part(device="cpu", nodes=tuple(sorted(names, key=graph.position.__getitem__))) for names in sets]
    return form_stages(graph, parts)


def _equal(whole: Reference, stages: Sequence[Stage], tolerance: Tolerance) -> bool:
    """Return whether plain parts, one after the other, give the whole model's numbers."""
    graph = whole.graph
    with tempfile.TemporaryDirectory(prefix="cutset-fault-") as folder:
        models = [Path(folder) / f"{stage.index}.onnx" for stage in stages]
        for stage, model in zip(stages, models, strict=True):
            write_part(graph, stage.inputs, stage.outputs, model)
        try:
            verify_against(whole, _pipeline(graph, stages, models), origin="", tolerance=tolerance)
        except PartsDifferError:
            return False
        finally:
            release_memory()
    return True


def _pipeline(graph: ModelGraph, stages: Sequence[Stage], models: Sequence[Path]) -> Runner:
    """Return what runs one sample through the files of stages."""
    options = session_options(keeps_dropout=graph.keeps_dropout)
    sessions = [open_session(model, custom_ops=graph.custom_ops, options=options) for model in models]

    def run_all(sample: Arrays) -> Mapping[str, Any]:
        values = dict(sample)
        for stage, session in zip(stages, sessions, strict=True):
            values |= run(session, {name: values[name] for name in stage.inputs}, stage.outputs)
        return values

    return run_all
