"""The planner against brute force: random small graphs, mixed supports, costs over many orders of magnitude."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.errors import PlanError
from cutset.partitioner.baselines import capability_within, pure_placements
from cutset.partitioner.bound import certify
from cutset.partitioner.cut import Oracle
from cutset.partitioner.evaluation import demands, evaluate
from cutset.partitioner.exhaustive import enumerate_placements
from cutset.partitioner.goal import Goal
from cutset.partitioner.incremental import Devices, Positions
from cutset.partitioner.network import Template, chain_template, free_template
from cutset.partitioner.phases import Window, earliest, fewest_stages, forced_range, latest, windows
from cutset.partitioner.problem import Placement, Problem, Tensor
from cutset.partitioner.solve import solve

FEW = settings(max_examples=25, deadline=None, derandomize=True)
MANY = settings(max_examples=60, deadline=None, derandomize=True)

MAGNITUDES = {"plain": (1e-5, 1e-2), "wild": (1e-9, 1e3)}


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    max_ops: int = 8,
    gpu_only: bool = True,
    overheads: bool = False,
    magnitude: str = "plain",
    pseudo: bool = True,
) -> Problem:
    """Draw a problem whose real ops are numbered in topological order."""
    low, high = MAGNITUDES[magnitude]
    cost = st.one_of(st.just(0.0), st.floats(np.log(low), np.log(high)).map(lambda x: float(np.exp(x))))
    size = draw(st.integers(1, max_ops))
    support = st.sampled_from(["both"] * 6 + ["cpu"] + (["gpu"] if gpu_only else []))
    cpu, gpu = [], []
    for _ in range(size):
        runs = draw(support)
        cpu.append(np.inf if runs == "gpu" else draw(cost))
        gpu.append(np.inf if runs == "cpu" else draw(cost))
    tensors: list[Tensor] = []

    def tensor(producer: int, consumers: tuple[int, ...]) -> None:
        name = f"t{len(tensors)}"
        tensors.append(Tensor(name=name, producer=producer, consumers=consumers, h2d_s=draw(cost), d2h_s=draw(cost)))

    for u in range(size - 1):
        # Repeats are wanted: an op may read one value twice.
        consumers = draw(st.lists(st.integers(u + 1, size - 1), max_size=3))
        if pseudo and draw(st.booleans()):
            consumers.append(size + 1)
        tensor(u, tuple(consumers))
    if pseudo:
        cpu, gpu = [*cpu, 0.0, 0.0], [*gpu, np.inf, np.inf]
        tensor(size, tuple(draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=3))))
        tensor(size - 1, (size + 1,))
    return Problem(
        names=tuple(f"op{v}" for v in range(len(cpu))),
        cpu_s=np.array(cpu),
        gpu_s=np.array(gpu),
        tensors=tuple(tensors),
        pseudo=frozenset({size, size + 1}) if pseudo else frozenset(),
        cpu_workers=draw(st.integers(1, 4)),
        cpu_stage_s=draw(cost) if overheads else 0.0,
        gpu_stage_s=draw(cost) if overheads else 0.0,
    )


@st.composite
def placed(draw: st.DrawFn, **options: object) -> tuple[Problem, Placement]:
    """Draw a problem and a placement in which every op can run."""
    problem = draw(problems(**options))  # type: ignore[arg-type]
    bits = draw(st.lists(st.integers(0, 1), min_size=problem.size, max_size=problem.size))
    chosen = np.where(problem.movable, np.array(bits), ~problem.on_cpu)
    return problem, chosen.astype(np.int8)


def worst(problem: Problem, placement: Placement, prices: np.ndarray) -> float:
    """Return prices @ demands by hand, without inf * 0."""
    demand = demands(problem, placement)
    return float(sum(p * d for p, d in zip(prices, demand, strict=True) if p))


def close(a: float, b: float, tolerance: float) -> bool:
    return a == pytest.approx(b, rel=tolerance, abs=1e-300)


@FEW
@given(problems(), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_cut_equals_priced_demand_and_brute_force_on_both_engines(problem: Problem, prices: list[float]) -> None:
    price = np.array(prices)
    every = enumerate_placements(problem)
    optimum = every.best(every.compute_and_copy_s @ price)
    for flow in ("scipy", "networkx"):
        oracle = Oracle(template=free_template(problem), flow=flow)
        ceiling = worst(problem, oracle.template.placement(oracle.template.feasible), price)
        answer = oracle.cheapest(price, ceiling)
        # Each floored capacity loses at most one unit, and a unit is 2^-29 of the ceiling.
        slack = ceiling * 1e-6
        assert optimum - slack <= answer.value_s <= optimum * (1 + 1e-12)
        for labels in answer.labels:
            assert worst(problem, oracle.template.placement(labels), price) <= optimum + slack


@FEW
@given(problems(magnitude="wild"))
def test_small_costs_keep_their_digits_beside_huge_ones(problem: Problem) -> None:
    every = enumerate_placements(problem)
    for objective, values in (("throughput", every.bottleneck_s), ("latency", every.latency_s)):
        solution = solve(problem, objective=objective, max_stages=None)
        optimum = every.best(values)
        assert not np.isnan(list(solution.evaluation.demand_s.values())).any()
        assert 0 <= solution.lower_bound_s <= optimum * (1 + 1e-9)
        if objective == "latency":
            assert close(solution.evaluation.latency_s, optimum, 1e-6)


@FEW
@given(problems(overheads=True), st.sampled_from([None, 1, 2, 3, 5]), st.sampled_from(["throughput", "latency"]))
def test_bound_optimum_plan_and_pure_plans_are_in_order(problem: Problem, limit: int | None, objective: str) -> None:
    every = enumerate_placements(problem)
    values = every.bottleneck_s if objective == "throughput" else every.latency_s
    optimum = every.best(values, limit)
    if np.isinf(optimum):
        with pytest.raises(PlanError, match=r"--max-stages \d+"):
            solve(problem, objective=objective, max_stages=limit)
        return
    solution = solve(problem, objective=objective, max_stages=limit)
    evaluation = solution.evaluation
    value = evaluation.bottleneck_s if objective == "throughput" else evaluation.latency_s
    assert limit is None or evaluation.stages <= limit
    assert np.isfinite(value)
    assert solution.lower_bound_s <= every.best(values) * (1 + 1e-9)
    assert value >= optimum * (1 - 1e-9)
    for placement in pure_placements(problem).values():
        pure = evaluate(problem, placement)
        if limit is None or pure.stages <= limit:
            assert value <= (pure.bottleneck_s if objective == "throughput" else pure.latency_s) * (1 + 1e-9)


@FEW
@given(problems())
def test_latency_plan_without_overheads_is_optimal(problem: Problem) -> None:
    every = enumerate_placements(problem)
    solution = solve(problem, objective="latency", max_stages=None)
    assert close(solution.evaluation.latency_s, every.best(every.latency_s), 1e-6)
    assert solution.gap <= 1e-5 or solution.evaluation.latency_s == 0


@MANY
@given(placed(overheads=True))
def test_stages_are_monotone_alternate_and_are_as_few_as_brute_force_says(case: tuple[Problem, Placement]) -> None:
    problem, placement = case
    evaluation = evaluate(problem, placement)
    labels = evaluation.labels
    for v in range(problem.size):
        assert (labels[v] == -1) == (v in problem.pseudo)
        assert labels[v] == -1 or (evaluation.first + labels[v]) % 2 == placement[v]
    for tensor in problem.tensors:
        for w in tensor.consumers:
            if tensor.producer not in problem.pseudo and w not in problem.pseudo:
                assert labels[w] >= labels[tensor.producer]
    assert set(labels.tolist()) - {-1} == set(range(evaluation.stages))
    every = enumerate_placements(problem)
    row = int(np.flatnonzero((every.placements == placement).all(axis=1))[0])
    assert evaluation.stages == every.stages[row]
    assert close(evaluation.bottleneck_s, every.bottleneck_s[row], 1e-12)
    assert close(evaluation.latency_s, every.latency_s[row], 1e-12)


@MANY
@given(placed(), st.data())
def test_another_consumer_on_a_side_already_paid_is_free(case: tuple[Problem, Placement], data: st.DataObject) -> None:
    problem, placement = case
    if not problem.tensors:
        return
    index = data.draw(st.integers(0, len(problem.tensors) - 1))
    tensor = problem.tensors[index]
    sides = {int(placement[w]) for w in tensor.consumers} | {int(placement[tensor.producer])}
    position = problem.topology.position
    later = [
        w
        for w in range(problem.size)
        if position[w] > position[tensor.producer] and placement[w] in sides and w not in problem.pseudo
    ]
    more = replace(tensor, consumers=(*tensor.consumers, *later))
    tensors = (*problem.tensors[:index], more, *problem.tensors[index + 1 :])
    assert demands(replace(problem, tensors=tensors), placement).tolist() == demands(problem, placement).tolist()


@MANY
@given(placed(max_ops=10), st.lists(st.integers(0, 9), max_size=12))
def test_incremental_state_equals_full_evaluation(case: tuple[Problem, Placement], moves: list[int]) -> None:
    problem, placement = case
    window = Window(low=0, high=problem.size + 1)
    devices = Devices(problem, placement)
    positions = Positions(problem, devices.device, window)
    scale = 1e-12 * (1 + sum(t.h2d_s + t.d2h_s for t in problem.tensors))
    for v in (m for m in moves if m < problem.size and problem.movable[m]):
        before = list(devices.demand_s)
        change = devices.difference(v)
        devices.flip(v)
        positions.flipped(v)
        now = np.array(devices.device, dtype=np.int8)
        assert devices.demand_s == pytest.approx(demands(problem, now).tolist(), rel=1e-9, abs=scale)
        assert devices.demand_s == pytest.approx([a + b for a, b in zip(before, change, strict=True)])
        assert positions.early == earliest(problem, devices.device, window.low)
        assert positions.late == latest(problem, devices.device, window.high)


@MANY
@given(placed(gpu_only=False), st.integers(1, 4))
def test_a_single_move_is_allowed_exactly_when_the_result_fits(case: tuple[Problem, Placement], stages: int) -> None:
    problem, placement = case
    window = Window(low=0, high=stages - 1)
    if max(earliest(problem, placement.tolist(), 0)) > window.high:
        return
    positions = Positions(problem, placement.tolist(), window)
    for v in np.flatnonzero(problem.movable).tolist():
        moved = placement.tolist()
        moved[v] = 1 - moved[v]
        assert positions.allows(v) == (max(earliest(problem, moved, 0)) <= window.high)


@FEW
@given(problems(overheads=True), st.sampled_from([0.25, 8.0, 1024.0]))
def test_scaling_every_cost_scales_the_plan(problem: Problem, factor: float) -> None:
    scaled = replace(
        problem,
        cpu_s=problem.cpu_s * factor,
        gpu_s=problem.gpu_s * factor,
        tensors=tuple(replace(t, h2d_s=t.h2d_s * factor, d2h_s=t.d2h_s * factor) for t in problem.tensors),
        cpu_stage_s=problem.cpu_stage_s * factor,
        gpu_stage_s=problem.gpu_stage_s * factor,
    )
    plain, large = solve(problem, max_stages=None), solve(scaled, max_stages=None)
    assert close(large.lower_bound_s, plain.lower_bound_s * factor, 1e-3)
    assert close(large.evaluation.bottleneck_s, plain.evaluation.bottleneck_s * factor, 1e-6)


@FEW
@given(problems(), st.randoms(use_true_random=False))
def test_renumbering_the_ops_keeps_bound_and_exact_values(problem: Problem, random: Random) -> None:
    new = list(range(problem.size))
    random.shuffle(new)
    back = np.argsort(new)
    renamed = replace(
        problem,
        names=tuple(problem.names[v] for v in back),
        cpu_s=problem.cpu_s[back],
        gpu_s=problem.gpu_s[back],
        tensors=tuple(
            replace(t, producer=new[t.producer], consumers=tuple(new[w] for w in t.consumers)) for t in problem.tensors
        ),
        pseudo=frozenset(new[v] for v in problem.pseudo),
    )
    for objective, tolerance in (("throughput", 1e-3), ("latency", 1e-6)):
        a, b = (certify(Goal(problem=p, objective=objective)) for p in (problem, renamed))
        assert close(a.value_s, b.value_s, tolerance)
    bounds = [certify(Goal(problem=p, objective="latency")) for p in (problem, renamed)]
    fastest = [min(demands(p, x).sum() for x in b.placements) for p, b in zip((problem, renamed), bounds, strict=True)]
    assert close(*fastest, 1e-6)


@FEW
@given(problems(overheads=True), st.integers(0, 3))
def test_same_seed_same_plan(problem: Problem, seed: int) -> None:
    a, b = (solve(problem, max_stages=None, seed=seed) for _ in range(2))
    assert a.placement.tolist() == b.placement.tolist()
    assert a.origins == b.origins
    assert (a.lower_bound_s, a.notes) == (b.lower_bound_s, b.notes)


@FEW
@given(problems(gpu_only=False), st.integers(2, 4))
def test_no_gpu_stage_is_smaller_than_asked(problem: Problem, smallest: int) -> None:
    asked = replace(problem, min_gpu_ops=smallest)
    solution = solve(asked, max_stages=5)
    labels = solution.evaluation.labels
    on_gpu = labels[(solution.placement == 1) & (labels >= 0)]
    assert (np.bincount(on_gpu)[np.unique(on_gpu)] >= smallest).all()
    best = solve(problem, max_stages=5).evaluation.bottleneck_s
    assert solution.evaluation.bottleneck_s >= solution.lower_bound_s * (1 - 1e-9)
    assert solution.evaluation.bottleneck_s <= evaluate(problem, pure_placements(problem)["all_cpu"]).bottleneck_s
    assert solution.lower_bound_s <= best * (1 + 1e-9)


@MANY
@given(problems(max_ops=6), st.integers(1, 4))
def test_fewest_stages_is_what_brute_force_finds(problem: Problem, limit: int) -> None:
    every = enumerate_placements(problem)
    needed, path = fewest_stages(problem)
    assert needed == int(every.stages.min())
    assert all(not problem.movable[v] for v in path)
    fits = any(forced_range(problem, window) is not None for window in windows(limit))
    assert fits == (needed <= limit)


@FEW
@given(problems(max_ops=5), st.sampled_from([2, 3]), st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_chain_cut_is_the_cheapest_labelling_of_its_window(problem: Problem, limit: int, prices: list[float]) -> None:
    price = np.array(prices)
    for window in windows(limit):
        template = chain_template(problem, window)
        if template is None:
            continue
        ceiling = float(template.demands(template.feasible) @ price)
        answer = Oracle(template=template).cheapest(price, ceiling)
        optimum = min(float(template.demands(labels) @ price) for labels in chain_labellings(template, window))
        # The chain's constant is a sum over boundaries, so its unit is a share of all costs, not of the ceiling.
        costs = np.concatenate([problem.cpu_s, problem.gpu_s])
        slack = 1e-7 * float(costs[np.isfinite(costs)].sum() + sum(t.h2d_s + t.d2h_s for t in problem.tensors))
        assert answer.value_s == pytest.approx(optimum, rel=1e-6, abs=slack)
        for labels in answer.labels:
            real = [int(labels[v]) for v in range(problem.size) if v not in problem.pseudo]
            assert window.low <= min(real)
            assert max(real) <= window.high
            assert evaluate(problem, template.placement(labels)).stages <= limit


def chain_labellings(template: Template, window: Window) -> Iterator[np.ndarray]:
    """Yield every labelling of the ops with the best label of each stand-in for an input or output."""
    problem = template.problem
    real = [v for v in range(problem.size) if v not in problem.pseudo]
    starts = problem.topology.first_consumer.tolist()
    for chosen in product(range(window.low, window.high + 1), repeat=len(real)):
        labels = np.zeros(len(template.feasible), dtype=np.int64)
        labels[real] = chosen
        possible = all(problem.on_gpu[v] if labels[v] & 1 else problem.on_cpu[v] for v in real)
        for index, row in enumerate(template.producer.tolist()):
            consumers = template.consumer[starts[index] : starts[index + 1]].tolist()
            ops = [w for w in consumers if w < problem.size]
            if row >= problem.size:
                labels[row] = min([int(labels[w]) for w in ops], default=0) & ~1
            for w in consumers:
                if w >= problem.size:
                    labels[w] = labels[row] + (labels[row] & 1)
            possible &= all(labels[w] >= labels[row] for w in ops)
        if possible:
            yield labels


@MANY
@given(problems(overheads=True), st.integers(1, 6))
def test_capability_first_within_a_stage_limit_keeps_limit_and_support(problem: Problem, limit: int) -> None:
    greedy = pure_placements(problem)["capability_first"]
    placements = capability_within(problem, limit)
    assert bool(placements) == (fewest_stages(problem)[0] <= limit)
    for placement in placements:
        assert evaluate(problem, placement).stages <= limit
        assert problem.on_gpu[placement == 1].all()
        assert problem.on_cpu[placement == 0].all()
    if evaluate(problem, greedy).stages <= limit:
        assert any(np.array_equal(greedy, placement) for placement in placements)
