"""A regression is beyond its limit and beyond noise, and is named; what cannot be compared is not."""

from dataclasses import replace

import pytest

from cutset.codegen.ci.judge import judge, suspicious
from cutset.codegen.ci.limits import CHECKS
from cutset.codegen.ci.record import Benched
from tests.ci_records import case_of, costs, deployment, judged, parse_limits, plan, record, worse
from tests.profile_tables import make_group

BASELINE = record()


def test_nothing_changed():
    found = judged(BASELINE, record())
    assert {finding.verdict for finding in found.values()} == {"same"}
    assert list(found) == ["cost", "group", "throughput", "kernels", "placement", "stages", "error", "package-size"]


@pytest.mark.parametrize("factor", [0.5, 1.3, 1.7])
def test_a_slower_machine_is_no_regression(factor):
    found = judged(BASELINE, record(costs(factor=factor)))
    assert {finding.verdict for finding in found.values()} == {"same"}
    assert found["cost"].change == pytest.approx(0, abs=1e-9)


def test_more_work_on_a_slower_machine_is_one_and_is_named():
    found = judged(BASELINE, record(costs(factor=1.7, twin=1.2e-3, sha256="b" * 64)))
    assert found["cost"].verdict == "worse"
    assert found["cost"].change == pytest.approx(0.12)
    assert found["cost"].causes == ("`twin` is new: 1.20 ms",)


def test_a_dearer_group_is_named_and_a_cheaper_one_is_not():
    found = judged(BASELINE, record(costs(c=5e-3, b=1e-3)))
    assert found["group"].verdict == "worse"
    assert found["group"].causes == ("`c` 3.00 ms -> 5.00 ms",)
    assert found["cost"].causes == ("`c` 3.00 ms -> 5.00 ms",)


@pytest.mark.parametrize(("limit", "expected"), [("cost=5%", "worse"), ("cost=15%", "same"), ("cost=0.05", "worse")])
def test_the_limit_is_the_users(limit, expected):
    assert judged(BASELINE, record(costs(twin=1e-3)), limit)["cost"].verdict == expected


def test_a_change_within_noise_is_none_however_small_the_limit():
    assert judged(BASELINE, record(costs(d=4.3e-3)), "cost=1%")["cost"].verdict == "noise"


def test_checks_can_be_left_out():
    assert "cost" not in judged(BASELINE, record(), "cost=off")
    assert {"latency", "gain", "bottleneck"} <= set(judged(BASELINE, record(), "latency=5%,gain=5%,bottleneck=any"))


def test_another_version_of_a_library_is_not_taken_for_a_slower_machine():
    then, now = costs(), costs(factor=1.3)
    now = replace(now, environment=now.environment | {"packages": {"onnxruntime": "1.21"}})
    assert worse(record(then), record(now)) == {"cost", "group"}
    assert worse(record(then, speeds=(1.0, 1.1, 1.5)), record(now)) == set(), "the machine varied as much by itself"
    assert worse(record(then), record(now, speeds=(1.0, 0.7))) == set()


def test_another_machine_is_compared_in_what_does_not_depend_on_it():
    found = judged(BASELINE, record(costs(factor=3, cpu="Other CPU", twin=9e-3), deployment=deployment(1.02)))
    skipped = {name for name, finding in found.items() if finding.verdict == "skipped"}
    assert skipped == {name for name in found if not CHECKS[name].portable} == {"cost", "group", "gpu-cost", "throughput"}
    assert found["error"].verdict == "worse"


def test_a_node_that_a_gpu_refuses_is_named_with_the_reason():
    moved = plan({"c": "cpu"}, forced={"c": "TensorRT has no Foo"})
    found = judged(BASELINE, record(plan=moved), keeping=0.0)
    assert found["placement"].verdict == "worse"
    assert found["placement"].causes == ("`c` from gpu to cpu: TensorRT has no Foo",)
    assert worse(BASELINE, record(costs(cpu="Other CPU"), plan=moved)) == {"placement"}


def test_a_new_node_that_a_gpu_refuses_is_one_too():
    now = plan({"new": "cpu"}, forced={"new": "TensorRT has no Foo"})
    assert judged(BASELINE, record(plan=now))["placement"].causes == ("`new` is new and on the cpu: TensorRT has no Foo",)
    alone = replace(now, forced={"new": "no GPU cost is known for it"}, devices=("cpu",))
    assert worse(record(plan=replace(alone, placement={})), record(plan=alone)) == set()


@pytest.mark.parametrize(("keeping", "expected"), [(0.01, "noise"), (0.2, "worse"), (float("inf"), "worse")])
def test_a_tie_between_placements_is_noise(keeping, expected):
    moved = plan({"d": "gpu"}, devices=("cpu", "gpu"))
    found = judged(BASELINE, record(plan=moved), keeping=keeping)
    assert (found["placement"].verdict, found["stages"].verdict) == (expected, expected)


def test_costs_of_another_machine_may_move_nodes():
    moved = plan({"d": "gpu"}, devices=("cpu", "gpu"))
    found = judged(BASELINE, record(costs(cpu="Other CPU"), plan=moved))
    assert (found["placement"].verdict, found["stages"].verdict) == ("noise", "noise")


def test_only_what_a_device_refuses_may_count():
    limits = ("placement=refused", "stages=refused")
    assert worse(BASELINE, record(plan=plan({"d": "gpu"}, devices=("cpu", "gpu"))), *limits) == set()
    refused = plan({"c": "cpu"}, forced={"c": "TensorRT has no Foo"}, devices=("cpu", "gpu", "cpu", "gpu"))
    assert worse(BASELINE, record(plan=refused), *limits) == {"placement", "stages"}


def test_predictions():
    slower = record(plan=plan(throughput_per_s=150.0, latency_s=9e-3, unsplit_per_s=100.0))
    limits = ("latency=5%", "gain=5%")
    assert worse(BASELINE, slower, *limits) == {"throughput", "latency", "gain"}
    assert worse(slower, BASELINE, *limits) == set()
    assert judged(slower, BASELINE)["throughput"].verdict == "better"


def test_the_gain_is_over_the_best_simple_plan_where_both_records_know_it():
    """Twice the best unsplit plan then and now; over the best simple plan 1.6 times, and now 1.25 times."""
    then, now = (record(plan=plan(simple_per_s=rate)) for rate in (125.0, 160.0))
    assert worse(then, now, "gain=5%") == {"gain"}
    found = judged(then, now, "gain=5%")["gain"]
    assert (found.then, found.now) == (1.6, 1.25)
    for pair in ((record(), now), (now, record())):
        found = judged(*pair, "gain=5%")["gain"]
        assert (found.verdict, found.then, found.now) == ("same", 2.0, 2.0), "an older record knows unsplit plans alone"


@pytest.mark.parametrize(("busy", "expected"), [(0.95, "noise"), (0.5, "worse")])
def test_a_bottleneck_that_another_is_as_good_as(busy, expected):
    now = record(plan=plan(bottleneck="gpu", utilisation={"cpu": busy, "gpu": 1.0}))
    assert judged(BASELINE, now, "bottleneck=any")["bottleneck"].verdict == expected


def test_a_fusion_that_is_lost():
    table = costs(a=None, b=None, **{f"b{part}": 0.75e-3 for part in range(4)}, sha256="b" * 64)
    found = judged(BASELINE, record(table))
    assert found["kernels"].verdict == "worse"
    assert (found["kernels"].then, found["kernels"].now) == (4, 6)


def test_a_modelled_gpu_is_wrong_in_the_same_way_twice():
    def table(latency_s):
        group = make_group("b", latency_s, device="gpu", source="modelled", low_s=latency_s / 3, high_s=latency_s * 3)
        base = costs()
        return replace(base, groups=(*base.groups, group))

    assert worse(record(table(1e-4)), record(table(1.2e-4))) == {"gpu-cost"}
    assert worse(record(table(1e-4)), record(table(1e-4))) == set()


def test_sizes():
    bigger = record(deployment=deployment(package_bytes=1200, engine_bytes={"1": 130}))
    assert worse(BASELINE, bigger) == {"package-size"}
    assert judged(BASELINE, bigger)["engine-size"].note == "no engine was built for the baseline"
    assert worse(record(deployment=deployment(engine_bytes={"1": 100})), bigger) == {"package-size", "engine-size"}


def test_engines_of_other_stages_may_have_other_sizes():
    """Where costs within their noise moved a node, the engine grew by that node and by nothing else."""
    then, more = record(deployment=deployment(engine_bytes={"1": 100})), deployment(engine_bytes={"1": 130})
    moved = record(plan=plan({"d": "gpu"}, devices=("cpu", "gpu")), deployment=more)
    assert judged(then, moved, keeping=0.0)["engine-size"].verdict == "noise"
    assert "engine-size" in worse(then, moved, keeping=1.0)


def test_only_what_was_measured_is_measured_again():
    def found(now):
        return judge(case_of(BASELINE, now, parse_limits(())))

    assert not suspicious(found(record()))
    assert not suspicious(found(record(deployment=deployment(2.0))))
    assert suspicious(found(record(costs(twin=2e-3))))


@pytest.mark.parametrize(
    ("now", "cause"),
    [
        (deployment(1.01), "output `y`: 0.0098 of its norm"),  # a sketch knows it within a few per cent
        (deployment(parts_error=0.01), "the parts differ from the whole by 0.01"),
        (deployment(precision_errors={"1": 0.02}), "the precision of stage 1 changes its numbers by 0.02"),
    ],
)
def test_numbers(now, cause):
    then = record(deployment=deployment(precision_errors={"1": 0.001}))
    found = judged(then, record(deployment=now))["error"]
    assert found.verdict == "worse"
    assert found.causes == (cause,)


def test_numbers_that_cannot_be_compared():
    now = record(deployment=deployment(2.0, inputs="other"))
    found = judged(BASELINE, now)["error"]
    assert (found.verdict, found.note[:17]) == ("same", "the sample inputs")
    assert judged(BASELINE, record(deployment=deployment(failure="output `y` differs")))["error"].verdict == "worse"


def benched(gain, noise=0.02):
    return record(deployment=deployment(benched=Benched(gain=gain, noise=noise)))


@pytest.mark.parametrize(
    ("now", "verdict"),
    [(benched(2.0), "same"), (benched(1.5), "worse"), (benched(1.5, noise=0.4), "noise"), (benched(3.0), "better")],
)
def test_a_package_that_gains_less_when_it_runs(now, verdict):
    assert judged(benched(2.0), now)["measured-gain"].verdict == verdict


def test_a_run_that_only_one_side_has_is_not_compared():
    assert judged(BASELINE, benched(2.0))["measured-gain"].verdict == "skipped"
    assert "measured-gain" not in judged(benched(2.0), BASELINE)
