"""The fit finds planted rates through noise, outliers and classes it never saw."""

from dataclasses import replace

import numpy as np
import pytest

from cutset.graph.load import load
from cutset.profilers.calibrated import INTERVAL, MIN_GROUPS, Calibration, Rates, calibrate, calibrated_group
from cutset.profilers.datasheets import datasheet
from cutset.profilers.table import ClassWork
from cutset.profilers.workload import CLASSES, work_of
from tests.profile_tables import make_group

PLANTED = {
    "conv": Rates(launch_s=8e-6, flop_s=1e-11, byte_s=4e-11, gathered_s=3e-10),
    "matmul": Rates(launch_s=3e-6, flop_s=3e-12, byte_s=8e-11, gathered_s=0.0),
    "elementwise": Rates(launch_s=2e-6, flop_s=5e-11, byte_s=1e-10, gathered_s=0.0),
}


def planted(rng, kinds=tuple(PLANTED), count=150, noise=0.0):
    """Return groups of random work that take what the planted rates say, give or take `noise`."""
    made = []
    for index in range(count):
        kind = kinds[index % len(kinds)]
        work = ClassWork(
            launches=1,
            flops=int(10 ** rng.uniform(3, 9)),
            bytes=int(10 ** rng.uniform(3, 7)),
            gathered=int(10 ** rng.uniform(2, 6)) if kind == "conv" else 0,
        )
        seconds = PLANTED[kind].seconds(work) * float(np.exp(rng.normal(0, noise)))
        made.append(make_group(f"n{index}", seconds, work={kind: work}))
    return made


def errors(calibration, groups):
    return np.array([calibration.seconds(group.work) / group.latency_s - 1 for group in groups])


def test_planted_rates_are_found():
    rng = np.random.default_rng(0)
    found = calibrate([planted(rng)])
    assert found.groups == 150
    fresh = planted(rng)
    assert np.median(np.abs(errors(found, fresh))) < 0.05
    assert sum(found.seconds(g.work) for g in fresh) == pytest.approx(sum(g.latency_s for g in fresh), rel=0.03)


def test_noise_and_outliers_do_not_steer():
    rng = np.random.default_rng(1)
    groups = planted(rng, noise=0.1)
    for index in range(0, len(groups), 15):  # a loop that ran fifty times, and was counted once
        groups[index] = replace(groups[index], latency_s=groups[index].latency_s * 50)
    assert np.median(np.abs(errors(calibrate([groups]), planted(rng)))) < 0.15


def test_scatter_does_not_bias_the_total():
    """A plain relative least squares is a fifth too low at this scatter."""
    rng = np.random.default_rng(2)
    found = calibrate([planted(rng, ("matmul",), 400, noise=0.5)])
    fresh = planted(rng, ("matmul",), 400)
    assert np.median(errors(found, fresh)) == pytest.approx(0.0, abs=0.1)


def test_a_class_that_was_never_seen_costs_what_the_others_do():
    rng = np.random.default_rng(3)
    found = calibrate([planted(rng, ("matmul", "conv"))])
    work = ClassWork(launches=1, flops=10**7, bytes=10**5)
    times = [found.rates[kind].seconds(work) for kind in ("matmul", "conv")]
    assert min(times) / 2 <= found.rates["pooling"].seconds(work) <= max(times) * 2
    assert set(found.rates) == set(CLASSES)


def test_small_kernels_do_not_make_bytes_slow():
    """At batch 1 a large GPU shows launches alone: a class seen in two small groups must not read memory at their pace."""
    launches = [make_group(f"n{i}", 8e-6, work={"elementwise": ClassWork(launches=1, flops=i, bytes=i)}) for i in range(1, 40)]
    products = [
        make_group(f"m{size}", seconds, work={"matmul": ClassWork(launches=1, flops=size, bytes=2 * size)})
        for size, seconds in ((10_000, 2e-5), (60_000, 3e-5))
    ]
    large = {"matmul": ClassWork(launches=1, flops=75_000_000, bytes=2_900_000)}
    assert calibrate([launches, products]).seconds(large) > 1e-4
    assert calibrate([launches, products], datasheet("h100")).seconds(large) < 4e-5


def test_the_data_sheet_gives_way_to_what_was_measured():
    """Kernels here reach a third to a fiftieth of its peaks."""
    rng = np.random.default_rng(7)
    sheet = replace(datasheet("h100"), kernel_launch_s=1e-6, fp32_flops=1e12, memory_bytes_per_s=1e11)
    found, fresh = calibrate([planted(rng)], sheet), planted(rng)
    assert np.median(np.abs(errors(found, fresh))) < 0.1


def test_no_rate_is_negative():
    rng = np.random.default_rng(4)
    groups = [replace(group, latency_s=1 / (1 + index)) for index, group in enumerate(planted(rng))]
    rates = calibrate([groups]).rates.values()
    assert all(min(r.launch_s, r.flop_s, r.byte_s, r.gathered_s) >= 0 for r in rates)


def test_kernels_that_cost_nothing_are_learned():
    """On a GPU a view is no kernel: recorded as zero, it must not be modelled as a launch."""
    rng = np.random.default_rng(5)
    view = {"view": ClassWork(launches=1, flops=0, bytes=0)}
    groups = planted(rng) + [make_group(f"v{index}", 0.0, work=view) for index in range(20)]
    assert calibrate([groups]).seconds(view) < 1e-6


def test_what_says_nothing_is_passed_over():
    rng = np.random.default_rng(6)
    groups = planted(rng, count=MIN_GROUPS)
    assert calibrate([groups]) is not None
    assert calibrate([groups[:-1]]) is None
    unusable = [replace(groups[0], source="modelled"), replace(groups[0], latency_s=None), replace(groups[0], work={})]
    assert calibrate([groups[:-1], unusable]) is None
    assert calibrate([]) is None


def test_a_modelled_group_says_so(cnn_path):
    graph = load(cnn_path)
    free = {name: spec.shape for name, spec in graph.values.items() if name not in graph.initializers}
    graph = graph.with_measured({name: (1, *shape[1:]) for name, shape in free.items()}, {})
    calibration = Calibration(rates=dict.fromkeys(CLASSES, PLANTED["conv"]), groups=9)
    group = make_group("g", canonical=("conv1", "relu1"), work=work_of(graph, ["conv1", "relu1"]))
    found = calibrated_group(graph, group, calibration)
    assert (found.device, found.backend, found.source) == ("gpu", "calibrated", "modelled")
    assert found.latency_s == pytest.approx(calibration.seconds(group.work))
    assert (found.low_s, found.high_s) == pytest.approx((found.latency_s / INTERVAL, found.latency_s * INTERVAL))
    assert sum(found.unfused_s.values()) > found.latency_s
    assert calibrated_group(graph, replace(group, work={}), calibration) is None
