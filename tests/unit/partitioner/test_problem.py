"""A problem is checked once, when it is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cutset.errors import PlanError
from cutset.partitioner.problem import Problem, Tensor


def make(**changes: Any) -> Problem:
    fields: dict[str, Any] = {
        "names": ("a", "b", "c"),
        "cpu_s": np.array([1.0, 2.0, 3.0]),
        "gpu_s": np.array([0.5, np.inf, 1.0]),
        "tensors": (
            Tensor(name="x", producer=0, consumers=(1, 2), h2d_s=0.1, d2h_s=0.2),
            Tensor(name="y", producer=1, consumers=(2,), h2d_s=0.1, d2h_s=0.2),
        ),
    }
    return Problem(**(fields | changes))


def test_topology_is_derived_in_dependency_order() -> None:
    graph = make().topology
    assert graph.order == (0, 1, 2)
    assert graph.predecessors == ((), (0,), (0, 1))
    assert graph.successors == ((1, 2), (2,), ())
    assert graph.produced == ((0,), (1,), ())
    assert graph.consumed == ((), (0,), (0, 1))


def test_an_op_that_reads_a_value_twice_receives_it_once() -> None:
    assert Tensor(name="x", producer=0, consumers=(2, 1, 2, 0), h2d_s=0, d2h_s=0).consumers == (1, 2)


def test_a_value_without_consumers_is_dropped() -> None:
    dead = Tensor(name="dead", producer=2, consumers=(), h2d_s=1, d2h_s=1)
    assert make(tensors=(*make().tensors, dead)).tensors == make().tensors


def test_costs_cannot_be_changed_later() -> None:
    source = np.array([1.0, 2.0, 3.0])
    problem = make(cpu_s=source)
    source[0] = 99
    assert problem.cpu_s[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        problem.cpu_s[0] = 5


def test_a_cycle_is_named() -> None:
    back = Tensor(name="z", producer=2, consumers=(1,), h2d_s=0, d2h_s=0)
    with pytest.raises(PlanError, match="`b` depend on each other in a cycle"):
        make(tensors=(*make().tensors, back))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cpu_s": np.array([1, np.nan, 3])}, "op `b` has the CPU cost nan"),
        ({"gpu_s": np.array([1, 2, -3.0])}, "op `c` has the GPU cost -3"),
        ({"cpu_s": np.array([1, np.inf, 3])}, "op `b` can run on neither device"),
        ({"tensors": (Tensor(name="x", producer=0, consumers=(1,), h2d_s=np.inf, d2h_s=0),)}, "tensor `x` costs inf"),
        ({"tensors": (Tensor(name="x", producer=0, consumers=(1,), h2d_s=0, d2h_s=-1),)}, "tensor `x` costs 0"),
        ({"gpu_stage_s": np.nan}, "`gpu_stage_s` is nan"),
        ({"whole_cpu_s": -1.0}, "`whole_cpu_s` is -1"),
    ],
)
def test_wrong_costs_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu_s": np.array([1.0])},
        {"tensors": (Tensor(name="x", producer=0, consumers=(3,), h2d_s=0, d2h_s=0),)},
        {"tensors": (Tensor(name="x", producer=-1, consumers=(1,), h2d_s=0, d2h_s=0),)},
        {"pseudo": frozenset({7})},
        {"pseudo": frozenset({0})},
        {"cpu_workers": 0},
        {"gpu_count": 0},
        {"min_gpu_ops": -1},
    ],
)
def test_mistakes_of_the_caller_are_value_errors(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make(**changes)
