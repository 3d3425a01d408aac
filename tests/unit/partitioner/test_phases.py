"""Stages by hand on small chains."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.errors import PlanError
from cutset.partitioner.phases import Window, fewest_stages, forced_range, require_stages, stages_of, windows
from cutset.partitioner.problem import Placement, Problem, Tensor

ANY, CPU_ONLY, GPU_ONLY = "any", "cpu", "gpu"


def chain(*support: str) -> Problem:
    return Problem(
        names=tuple(f"op{i}" for i in range(len(support))),
        cpu_s=np.array([np.inf if s == GPU_ONLY else 1.0 for s in support]),
        gpu_s=np.array([np.inf if s == CPU_ONLY else 1.0 for s in support]),
        tensors=tuple(Tensor(name=f"t{i}", producer=i, consumers=(i + 1,), h2d_s=1, d2h_s=1) for i in range(len(support) - 1)),
    )


def place(*devices: int) -> Placement:
    return np.array(devices, dtype=np.int8)


def test_a_chain_has_a_stage_for_each_run() -> None:
    stages = stages_of(chain(*[ANY] * 5), place(0, 0, 1, 1, 0))
    assert (stages.count, stages.first, stages.labels.tolist()) == (3, 0, [0, 0, 1, 1, 2])
    assert (stages.on(0), stages.on(1)) == (2, 1)


def test_the_first_device_is_the_one_that_gives_fewer_stages() -> None:
    # A lone CPU op beside GPU -> CPU fits in two stages only if the GPU begins.
    problem = Problem(
        names=("lone", "g", "c"),
        cpu_s=np.ones(3),
        gpu_s=np.ones(3),
        tensors=(Tensor(name="t", producer=1, consumers=(2,), h2d_s=1, d2h_s=1),),
    )
    stages = stages_of(problem, place(0, 1, 0))
    assert (stages.count, stages.first, stages.labels.tolist()) == (2, 1, [1, 0, 1])


def test_the_cpu_begins_when_both_give_the_same() -> None:
    problem = Problem(names=("a", "b"), cpu_s=np.ones(2), gpu_s=np.ones(2), tensors=())
    assert stages_of(problem, place(0, 1)).first == 0


def test_inputs_and_outputs_make_no_stage() -> None:
    problem = Problem(
        names=("<input>", "g", "<output>"),
        cpu_s=np.array([0.0, 1.0, 0.0]),
        gpu_s=np.array([np.inf, 1.0, np.inf]),
        tensors=(
            Tensor(name="in", producer=0, consumers=(1,), h2d_s=1, d2h_s=1),
            Tensor(name="out", producer=1, consumers=(2,), h2d_s=1, d2h_s=1),
        ),
        pseudo=frozenset({0, 2}),
    )
    stages = stages_of(problem, place(0, 1, 0))
    assert (stages.count, stages.first, stages.labels.tolist()) == (1, 1, [-1, 0, -1])


def test_tied_ops_force_stages_and_the_refusal_names_them_in_order() -> None:
    problem = chain(ANY, GPU_ONLY, ANY, CPU_ONLY, ANY, GPU_ONLY)
    assert fewest_stages(problem) == (3, [1, 3, 5])
    require_stages(problem, 3)
    require_stages(problem, None)
    with pytest.raises(PlanError) as caught:
        require_stages(problem, 2)
    assert caught.value.cause == "one path passes `op1` (GPU only) -> `op3` (CPU only) -> `op5` (GPU only)"
    assert "--max-stages 3" in str(caught.value.hint)


def test_no_stages_at_all_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        require_stages(chain(ANY), 0)


def test_windows_begin_with_either_device() -> None:
    assert windows(4) == (Window(low=0, high=3), Window(low=1, high=4))


def test_forced_range_narrows_ops_around_tied_ones() -> None:
    problem = chain(ANY, GPU_ONLY, ANY, CPU_ONLY)
    assert forced_range(problem, Window(low=0, high=2)) == ([0, 1, 1, 2], [1, 1, 2, 2])
    assert forced_range(problem, Window(low=0, high=1)) is None
