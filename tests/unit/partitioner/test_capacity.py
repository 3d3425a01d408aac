"""The capacity table agrees with arithmetic, and picks the cheapest size that serves."""

import pytest

from cutset.partitioner.capacity import Question, capacity, cores_per_gpu
from cutset.partitioner.steps import Step


def step(resource, each_s, fixed_s=0.0):
    return Step(stage=0, resource=resource, fixed_s=fixed_s, each_s=each_s)


STEPS = [step("cpu", 3e-3), step("h2d", 1e-4), step("gpu", 1e-3), step("d2h", 1e-5), step("cpu", 1e-3)]


def ask(steps=STEPS, **question):
    question = {"workers": (1, 2, 4, 6), "batches": (1,)} | question
    return capacity(lambda _count: steps, Question(**question))


def test_throughput_grows_with_workers_until_the_gpu_is_busy():
    found = ask()
    assert [row.limit_per_s for row in found.rows] == pytest.approx([250, 500, 1000, 1000])
    assert [row.throughput_per_s for row in found.rows] == pytest.approx([250, 500, 1000, 1000], rel=0.03)
    assert [row.bottleneck for row in found.rows[:2]] == ["cpu", "cpu"]
    assert found.rows[3].utilisation["gpu"] == pytest.approx(1, abs=0.03)
    assert found.recommended.cpu_workers == 4
    assert found.cores_per_gpu == pytest.approx(4)
    assert found.gpu_busy_at in {4, 5}


def test_cores_per_gpu_count_the_threads_of_a_worker():
    assert cores_per_gpu(STEPS, 1, threads=2) == pytest.approx(8)
    assert cores_per_gpu(STEPS[:1], 1) is None
    assert ask([step("cpu", 1e-3)]).gpu_busy_at is None


def test_a_batch_shares_what_is_fixed():
    rows = ask([step("gpu", 1e-4, fixed_s=9e-4)], batches=(1, 9), workers=(1,)).rows
    assert [row.throughput_per_s for row in rows] == pytest.approx([1000, 5000], rel=0.03)
    assert rows[1].tokens % 9 == 0


def test_a_rate_takes_as_many_replicas_as_the_mean_needs_and_waits_as_theory_says():
    """Two workers do 500 a second, so 900 take two; 1,800 take four."""
    row = ask(workers=(2,), rate_per_s=900.0).rows[0]
    assert row.replicas == 2
    assert row.latency_p50_s >= 5.1e-3
    assert row.latency_p99_s > row.latency_p50_s
    assert ask(workers=(2,), rate_per_s=1800.0).rows[0].replicas == 4


def test_a_target_adds_replicas_or_refuses():
    loose, tight = ask(workers=(2,), rate_per_s=450.0), ask(workers=(2,), rate_per_s=450.0, slo_s=0.012)
    assert loose.rows[0].replicas == 1
    assert tight.rows[0].replicas > 1
    assert tight.rows[0].latency_p99_s <= 0.012
    hopeless = ask(slo_s=1e-3)
    assert hopeless.rows == ()
    assert hopeless.recommended is None


def test_what_a_million_requests_cost():
    found = ask(workers=(2, 4), core_per_hour=0.36, gpu_per_hour=3.6)
    assert [row.cost_per_million for row in found.rows] == pytest.approx(
        [4.32 / 3600 / 500 * 1e6, 5.04 / 3600 / 1000 * 1e6], rel=0.03
    )
    assert found.recommended.cpu_workers == 4
    cheap_gpu = ask([step("cpu", 4e-3)], workers=(1, 2), core_per_hour=0.36, gpu_per_hour=3.6)
    assert cheap_gpu.rows[0].cost_per_million == pytest.approx(0.36 / 3600 / 250 * 1e6, rel=0.03), "no GPU, no price of one"


def test_workers_that_slow_each_other_down():
    def steps_at(count):
        return [step("cpu", 1e-3 * (1 + 0.5 * (count > 1)))]

    rows = capacity(steps_at, Question(workers=(1, 2), batches=(1,))).rows
    assert [row.limit_per_s for row in rows] == pytest.approx([1000, 2000 / 1.5])
