"""The smallest batch and the fewest workers that do the job, and no point of the front beaten by another."""

from dataclasses import replace

import pytest

from cutset.errors import PlanError
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.batches import batch_of, between, fitted_steps
from cutset.partitioner.cost import Machine
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.planner import plan_evidence
from cutset.partitioner.sizing import rivals_at, size_up, worker_counts
from cutset.partitioner.steps import Step

FIXED = 0.9
"""Share of a group's time on the GPU that does not grow with the batch, in these tests."""


def evidence(case, batch=1, fixed=FIXED):
    """The case at a batch: the CPU's time grows with it, most of the GPU's does not."""

    def at_batch(group):
        grows = batch if group.device == "cpu" else fixed + (1 - fixed) * batch
        scaled = {name: None if value is None else value * grows for name, value in
                  {"latency_s": group.latency_s, "low_s": group.low_s, "high_s": group.high_s}.items()}  # fmt: skip
        return replace(group, batch=batch, unfused_s={n: s * grows for n, s in group.unfused_s.items()}, **scaled)

    table = case.table()
    session = table.sessions[0]
    latency = replace(session.latency_s, median=session.latency_s.median * batch)
    table = replace(
        table, groups=tuple(map(at_batch, table.groups)), sessions=(replace(session, batch=batch, latency_s=latency),)
    )
    return Evidence(graph=case.graph, table=table, support=case.support(), pins={})


def options(cores=4, **settings):
    machine = Machine(cpu_workers=1, cores=cores)
    return PlanOptions(name="m", machine=machine, **settings)


@pytest.fixture(scope="module")
def gpu_bound(chain):
    """The CPU decodes in one millisecond, the GPU takes 2.8: only batches help."""
    return chain([1, 90, 90], [9, 1.4, 1.4], refused={"a": "no"})


@pytest.mark.parametrize(
    ("cores", "threads", "gpu", "counts"),
    [(2, 1, True, (1,)), (2, 1, False, (1, 2)), (8, 1, True, (1, 2, 3, 4, 6, 7)), (8, 4, True, (1,)), (1, 2, True, (1,))],
)
def test_worker_counts(cores, threads, gpu, counts):
    assert worker_counts(cores, threads, gpu=gpu) == counts


def test_a_batch_is_taken_when_it_pays(gpu_bound):
    found = size_up({batch: evidence(gpu_bound, batch) for batch in (1, 2, 4, 8)}, options(), (1,))
    assert found.options.machine.batch == 4, "four requests share what is fixed, and the CPU's millisecond limits from there"
    made = plan_evidence(evidence(gpu_bound, 4), found.options).plan
    assert made.prediction.bottleneck in {"gpu", "cpu"}
    assert (made.batch, made.tokens % 4, made.as_json()["max_batch"]) == (4, 0, 4)


def test_a_small_gain_is_not_worth_a_larger_batch(gpu_bound):
    found = size_up({batch: evidence(gpu_bound, batch, fixed=0.01) for batch in (1, 8)}, options(), (1,))
    assert found.options.machine.batch == 1


def test_workers_are_added_while_the_cpu_is_what_limits(chain):
    case = chain([10, 90], [9, 3], refused={"a": "no"}, session_ms=1000)
    found = size_up({1: evidence(case)}, options(cores=16), (1, 2, 3, 4, 6, 8))
    assert found.options.machine.cpu_workers == 4, "10 ms over four workers is under the GPU's 3 ms"


@pytest.mark.parametrize(("interval", "workers", "devices"), [(1.0, 2, "CCG"), (3.0, 1, "CGG")])
def test_the_size_is_that_of_the_plan_which_the_judge_prefers(chain, interval, workers, devices):
    """With two workers b leaves the GPU, which gains 1.8; where the GPU may be three times as fast that loses."""
    case = chain([1, 9, 90], [9, 5, 5], refused={"a": "no"}, session_ms=1000, interval=interval)
    found = size_up({1: evidence(case)}, options(cores=16), (1, 2, 3))
    assert found.options.machine.cpu_workers == workers
    made = plan_evidence(evidence(case), found.options).plan
    assert "".join(device[0].upper() for device in made.placement.values()) == devices


def test_each_simple_plan_has_the_size_that_suits_it(chain):
    case = chain([4, 9, 90], [9, 5, 5], refused={"a": "no"}, session_ms=100)
    evidences = {batch: evidence(case, batch) for batch in (1, 8)}
    found = rivals_at(evidences, options(), (1, 2, 3))
    assert set(found) == {"all_cpu", "capability_first"}
    assert found["all_cpu"].batch == 1, "the CPU gains nothing from batches"
    assert (found["capability_first"].batch, found["capability_first"].cpu_workers) == (8, 2), "the GPU limits at 2.2 ms"


def test_a_split_has_to_beat_a_simple_plan_at_the_batch_that_suits_that(chain):
    """Alone, b is best on the CPU; in batches of eight the GPU does both."""
    case = chain([0.1, 4, 90], [9, 5, 5], refused={"a": "no"}, session_ms=1000)
    alone = plan_evidence(evidence(case), options())
    assert alone.plan.comparison["chosen"] == "split"
    rivals = rivals_at({batch: evidence(case, batch) for batch in (1, 8)}, options(), (1,))
    held = plan_evidence(evidence(case), options(), rivals={name: plan.scores for name, plan in rivals.items()})
    assert held.plan.comparison["chosen"] == "capability_first"
    assert rivals["capability_first"].batch == 8


def test_a_latency_target_limits_batch_and_tokens(gpu_bound):
    evidences = {batch: evidence(gpu_bound, batch) for batch in (1, 8)}
    free = size_up(evidences, options(), (1,))
    tight = size_up(evidences, options(slo_s=8e-3), (1,))
    assert (free.options.machine.batch, tight.options.machine.batch) == (8, 1)
    made = plan_evidence(evidences[1], tight.options).plan
    assert made.prediction.loaded_latency_s <= 8e-3
    assert made.prediction.throughput_per_s <= plan_evidence(evidences[1], options()).plan.prediction.throughput_per_s


def test_a_target_that_nothing_meets(gpu_bound):
    with pytest.raises(PlanError, match=r"no plan answers within 1 ms: the quickest found takes 3\.") as caught:
        size_up({1: evidence(gpu_bound)}, options(slo_s=1e-3), (1,))
    assert "--slo-ms" in caught.value.hint
    with pytest.raises(PlanError, match="no plan answers within 1 ms"):
        plan_evidence(evidence(gpu_bound), options(slo_s=1e-3))


def test_a_target_picks_a_quicker_cut(chain):
    """c is slower on the GPU but free there: best for throughput, and too late for the target, as the whole model is."""
    case = chain([4, 3, 1], [50, 0.1, 3.5], refused={"a": "no"})
    free = plan_evidence(evidence(case), options(cores=1)).plan
    tight = plan_evidence(evidence(case), options(cores=1, slo_s=7e-3)).plan
    assert [[plan.placement[name] for name in "abc"] for plan in (free, tight)] == [
        ["cpu", "gpu", "gpu"],
        ["cpu", "gpu", "cpu"],
    ]
    assert tight.prediction.loaded_latency_s <= 7e-3 < free.prediction.latency_s


def test_no_point_of_the_front_is_beaten(gpu_bound):
    found = size_up({batch: evidence(gpu_bound, batch) for batch in (1, 2, 4, 8)}, options(), (1, 2, 3))
    front = [(point.latency_s, point.throughput_per_s) for point in found.pareto]
    assert len(front) > 2
    assert front == sorted(front)
    assert [rate for _, rate in front] == sorted({rate for _, rate in front})


def test_costs_between_two_batches_lie_on_their_line(gpu_bound):
    small, large = evidence(gpu_bound, 1), evidence(gpu_bound, 8)
    middle = between(small, large, 4)
    assert batch_of(middle.table) == 4
    for found, wanted in zip(middle.table.groups, evidence(gpu_bound, 4).table.groups, strict=True):
        assert found.latency_s == pytest.approx(wanted.latency_s)
        assert found.unfused_s == pytest.approx(wanted.unfused_s)
    assert middle.table.sessions[-1].latency_s.median == pytest.approx(4 * small.table.sessions[-1].latency_s.median)


def test_batches_that_were_fused_differently_have_no_line(gpu_bound, chain):
    other = chain([1, 90, 90], [9, 2, 2], groups=["a", "bc"])
    assert between(evidence(gpu_bound, 1), evidence(other, 8), 4) is None


def test_shapes_between_two_batches(gpu_bound):
    small, large = evidence(gpu_bound, 1), evidence(gpu_bound, 8)
    small = replace(small, table=replace(small.table, shapes={"x": (1, 3), "odd": (2,)}))
    large = replace(large, table=replace(large.table, shapes={"x": (8, 3), "odd": (2, 2)}))
    assert between(small, large, 4).table.shapes == {"x": (4, 3), "odd": (2, 2)}


def test_steps_between_two_batches_grow_as_both_were_measured():
    def at(seconds, batch):
        return [Step(stage=0, resource="gpu", fixed_s=0.0, each_s=seconds / batch)]

    (found,) = fitted_steps(at(2.0, 1), 1, at(9.0, 8), 8)
    assert (found.fixed_s, found.each_s) == pytest.approx((1, 1))
    (slower_in_batches,) = fitted_steps(at(1.0, 1), 1, at(16.0, 8), 8)
    assert slower_in_batches.fixed_s == 0
    other = [Step(stage=0, resource="cpu", fixed_s=0.0, each_s=1.0)]
    assert fitted_steps(at(1.0, 1), 1, other, 8) is None
