"""The counts of whole networks against an independent counter (onnx-tool).

It counts a multiply-add as one where Cutset counts two, so matrix operators are halved here. One convention is left out:
BatchNormalization, for which it counts a square root and a division of every element anew (31 operations), and Cutset
what a kernel does, a product and a sum by constants.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx.backend.test
import pytest

from cutset.graph import flops
from cutset.graph.load import load

onnx_tool = pytest.importorskip("onnx_tool", reason="onnx-tool is not installed")

LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("light_*.onnx"))
ANOTHER_CONVENTION = {"BatchNormalization"}


def reference(path: Path) -> Counter[str]:
    """Return onnx-tool's multiply-adds of each operator type."""
    model = onnx_tool.Model(str(path))
    graph = load(path)
    (spec,) = graph.inputs
    model.graph.shape_infer({spec.name: np.zeros(graph.shape(spec.name), np.float32)})
    model.graph.profile()
    found: Counter[str] = Counter()
    for node in model.graph.nodemap.values():
        found[node.op_type] += int(node.macs[0])
    return found


def ours(path: Path) -> Counter[str]:
    graph = load(path)
    found: Counter[str] = Counter()
    for node in graph.placeable:
        counted = flops.count(graph, node).flops
        found[node.op.op_type] += counted // 2 if node.op.op_type in flops.MATRIX_OPS else counted
    return found


def test_there_are_networks_to_count():
    assert len(LIGHT) == 9


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_a_network_counts_as_much_as_elsewhere(path):
    expected, found = reference(path), ours(path)
    for counts in (expected, found):
        for name in ANOTHER_CONVENTION:
            counts.pop(name, None)
    assert found.total() == pytest.approx(expected.total(), rel=0.05)
    for name in flops.MATRIX_OPS & set(expected):
        assert found[name] == pytest.approx(expected[name], rel=0.01), name
