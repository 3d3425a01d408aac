"""Division among several accelerators, against every contiguous division of small graphs."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from cutset.errors import PlanError
from cutset.partitioner import accelerators
from cutset.partitioner.accelerators import device_loads, device_names, divide
from cutset.partitioner.goal import Limits
from cutset.partitioner.problem import Problem, Tensor


def graph(seed: int, size: int = 6) -> Problem:
    rng = np.random.default_rng(seed)
    return Problem(
        names=tuple(str(v) for v in range(size)),
        cpu_s=np.where(rng.random(size) < 0.2, np.inf, rng.uniform(2, 9, size)),
        gpu_s=rng.uniform(1, 4, size),
        tensors=tuple(
            Tensor(name=str(u), producer=u, consumers=tuple(rng.integers(u + 1, size, 2)), h2d_s=0.3, d2h_s=0.5)
            for u in range(size - 1)
        ),
        gpu_bytes=rng.integers(1, 5, size).astype(float),
        copies_overlap=False,
    )


def contiguous(problem: Problem, count: int) -> set[tuple[int, ...]]:
    """Return every division whose devices each run a range of some order, by trying all orders and ranges."""
    edges = [(t.producer, w) for t in problem.tensors for w in t.consumers]
    found = set()
    for order in permutations(range(problem.size)):
        if any(order.index(u) > order.index(w) for u, w in edges):
            continue
        for devices in permutations(range(count + 1)):
            for cuts in np.ndindex(*[problem.size + 1] * count):
                if list(cuts) == sorted(cuts):
                    ends = [0, *cuts, problem.size]
                    at = [0] * problem.size
                    for device, low, high in zip(devices, ends, ends[1:], strict=False):
                        for v in order[low:high]:
                            at[v] = device
                    found.add(tuple(at))
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_division_is_the_best_contiguous_one(seed: int) -> None:
    problem = graph(seed)
    best = min(device_loads(problem, np.array(at), 2).max() for at in contiguous(problem, 2))
    division = divide(problem, 2)
    assert division.optimal
    assert division.bottleneck_s == pytest.approx(best)
    assert tuple(division.device.tolist()) in contiguous(problem, 2)


def test_loads_are_compute_and_every_tensor_in_and_out_once() -> None:
    problem = Problem(
        names=tuple("abc"),
        cpu_s=np.array([5.0, 7.0, 9.0]),
        gpu_s=np.array([1.0, 2.0, 4.0]),
        tensors=(
            Tensor(name="t", producer=0, consumers=(1, 2), h2d_s=0.1, d2h_s=0.01),
            Tensor(name="u", producer=1, consumers=(2,), h2d_s=0.2, d2h_s=0.02),
        ),
        cpu_workers=2,
    )
    assert device_loads(problem, np.array([1, 2, 2]), 2).tolist() == pytest.approx([0, 1.01, 6.1])
    assert device_loads(problem, np.array([1, 0, 2]), 2).tolist() == pytest.approx([3.5, 1.01, 4.3])


def test_memory_divides_further_or_is_refused() -> None:
    chain = Problem(
        names=tuple("abcd"),
        cpu_s=np.full(4, np.inf),
        gpu_s=np.array([1.0, 1.0, 1.0, 9.0]),
        tensors=tuple(Tensor(name=str(v), producer=v, consumers=(v + 1,), h2d_s=0, d2h_s=0) for v in range(3)),
        gpu_bytes=np.full(4, 2.0),
    )
    assert divide(chain, 2).device.tolist() == [1, 1, 1, 2]
    assert divide(chain, 2, Limits(gpu_bytes=4)).device.tolist() == [1, 1, 2, 2]
    with pytest.raises(PlanError, match="fits 2 accelerators of 3 bytes"):
        divide(chain, 2, Limits(gpu_bytes=3))


def test_a_graph_too_wide_for_all_sets_is_divided_along_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "MOST_SETS", 3)
    problem = graph(1)
    division = divide(problem, 2)
    assert not division.optimal
    assert division.bottleneck_s >= divide_fully(problem, monkeypatch)
    assert division.bottleneck_s == pytest.approx(device_loads(problem, division.device, 2).max())


def divide_fully(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(accelerators, "MOST_SETS", 6000)
    return divide(problem, 2).bottleneck_s


def test_devices_are_named_as_plans_name_them() -> None:
    assert device_names([0, 1, 2]) == ["cpu", "gpu:0", "gpu:1"]
