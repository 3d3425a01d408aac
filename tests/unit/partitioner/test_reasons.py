"""The price of moving one op is what evaluating the moved placement says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.partitioner.cost import Costed
from cutset.partitioner.evaluation import evaluate
from cutset.partitioner.phases import stages_of
from cutset.partitioner.problem import Problem, Tensor
from cutset.partitioner.reasons import Move, Moves, describe

COST = st.floats(1e-6, 1e-2)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), size=st.integers(2, 7))
def test_a_move_costs_what_evaluation_says(data, size):
    tensors = [
        Tensor(name=f"t{u}", producer=u, consumers=tuple(data.draw(st.sets(st.integers(u + 1, size - 1), min_size=1))),
               h2d_s=data.draw(COST), d2h_s=data.draw(COST))
        for u in range(size - 1)
    ]  # fmt: skip
    problem = Problem(
        names=tuple("abcdefg"[:size]),
        cpu_s=np.array([data.draw(COST) for _ in range(size)]),
        gpu_s=np.array([data.draw(COST) for _ in range(size)]),
        tensors=tuple(tensors),
        cpu_workers=data.draw(st.integers(1, 3)),
    )
    placement = np.array([data.draw(st.integers(0, 1)) for _ in range(size)], np.int8)
    before = evaluate(problem, placement)
    most = max(before.stages, data.draw(st.integers(1, 5)))
    moves = Moves(Costed(problem=problem, atoms=()), placement, before, most)
    for v in range(size):
        moved = placement.copy()
        moved[v] ^= 1
        after, move = evaluate(problem, moved), moves.of(v)
        assert move.bottleneck_s == pytest.approx(after.bottleneck_s - before.bottleneck_s, abs=1e-12)
        assert move.latency_s == pytest.approx(after.latency_s - before.latency_s, abs=1e-12)
        assert move.copied_s - move.saved_s == pytest.approx(move.latency_s, abs=1e-12)
        if move.fits:
            assert stages_of(problem, moved).count <= most


MOVE = {"bottleneck_s": 0.0, "latency_s": 0.0, "saved_s": -1e-6, "copied_s": 0.0, "fits": True}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fits": False}, "on the GPU the pipeline would need more stages than allowed"),
        (
            {"saved_s": 2e-6, "copied_s": 9e-6},
            "too small to pay the transfer: the GPU would save 2.0 us and copies take 9.0 us",
        ),
        ({"bottleneck_s": 3e-6}, "moving it would cost +3.0 us at the bottleneck"),
        ({"latency_s": 4e-6}, "moving it would cost +4.0 us of latency and nothing at the bottleneck"),
        ({}, "moving it alone would gain less than a stage must"),
    ],
)
def test_in_words(change, words):
    assert describe(Move(**(MOVE | change)), device=0) == words
