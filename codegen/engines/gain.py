"""What a precision should gain on a stage: the data sheet's model of it against the same model of fp32."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cutset.errors import UnknownShapeError
from cutset.graph.model import ModelGraph
from cutset.profilers.datasheets import Datasheet, Precision
from cutset.profilers.roofline import model_group


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What models the GPU.

    Args:
        sheet: Its data sheet.
        groups: Nodes that run as one kernel each.
    """

    sheet: Datasheet
    groups: Sequence[tuple[str, ...]]


def modelled_gain(
    graph: ModelGraph, model: Model, nodes: Collection[str], precision: Precision, reduced: Collection[str] | None = None
) -> float | None:
    """Return how many times faster than in fp32 the nodes should run, None where that is not modelled.

    Args:
        graph: The whole model.
        model: Of the GPU.
        nodes: Nodes of one stage.
        precision: Its precision.
        reduced: The nodes that are in it, where a rewrite says so; None where all are that can be.

    Raises:
        UsageError: If the GPU lacks the precision.
    """
    inside = [group for group in model.groups if set(group) <= set(nodes)]
    quantised = frozenset(reduced or ()) if precision == "int8" else frozenset()

    def total_s(narrow: Precision) -> float:
        kinds = [narrow if reduced is None or not set(reduced).isdisjoint(group) else "fp32" for group in inside]
        return sum(
            model_group(graph, group, model.sheet, kind, quantised=quantised).latency_s
            for group, kind in zip(inside, kinds, strict=True)
        )

    try:
        before, after = total_s("fp32"), total_s(precision)
    except UnknownShapeError:
        return None
    return before / after if after else None
