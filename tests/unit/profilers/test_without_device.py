"""Recorded before calibrated before data sheet: every group priced once, each number with its own source and interval."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.errors import UsageError
from cutset.graph.load import load
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.cost import Machine, build_problem
from cutset.profilers.calibrated import INTERVAL
from cutset.profilers.datasheets import datasheet
from cutset.profilers.inputs import draw
from cutset.profilers.options import ProfileOptions
from cutset.profilers.profile import profile
from cutset.profilers.roofline import INTERVAL as SHEET_INTERVAL
from cutset.profilers.roofline import transfer_times
from cutset.profilers.without_device import sheet_of, with_gpu

FLOAT = TensorProto.FLOAT


def tower(save_model, *, depth=10, prefix="", seed=0, last="Softmax"):
    """Return a dense network whose layers are of different sizes, so that no two groups compute the same."""
    rng = np.random.default_rng(seed)
    sizes = [8 + 4 * index for index in range(depth + 1)]
    nodes, weights, value = [], {}, "x"
    for index in range(depth):
        weights[f"{prefix}w{index}"] = rng.normal(size=(sizes[index], sizes[index + 1])).astype(np.float32)
        made = [f"{prefix}m{index}", f"{prefix}t{index}"]
        nodes.append(helper.make_node("MatMul", [value, f"{prefix}w{index}"], made[:1], name=f"{prefix}dense{index}"))
        nodes.append(helper.make_node("Tanh", made[:1], made[1:], name=f"{prefix}tanh{index}"))
        value = made[1]
    nodes.append(helper.make_node(last, [value], ["y"], name=f"{prefix}last"))
    path = save_model(nodes, [("x", FLOAT, [2, sizes[0]])], [("y", FLOAT, [2, sizes[-1]])], weights)
    return load(path)


def on_cpu(graph):
    return profile(graph, draw(graph.inputs, {}, seed=0), target=None, options=ProfileOptions(budget_s=0.02))


@pytest.fixture(scope="module")
def here(save_model):
    return on_cpu(tower(save_model))


@pytest.fixture(scope="module")
def elsewhere(here):
    """The same run, with each group four times as quick on a GPU that is measured there."""
    _, table = here
    gpu = tuple(
        replace(
            group, device="gpu", backend="tensorrt", latency_s=group.latency_s / 4, low_s=group.latency_s / 5,
            high_s=group.latency_s / 3,
        )
        for group in table.groups
    )  # fmt: skip
    return replace(
        table, target={"id": "t4", "name": "Tesla T4"}, groups=table.groups + gpu, transfers=transfer_times(datasheet("t4"))
    )


def test_the_very_profile_is_replayed_whole(here, elsewhere):
    table = with_gpu(*here, elsewhere)
    assert [g.latency_s for g in table.groups_on("gpu")] == [g.latency_s for g in elsewhere.groups_on("gpu")]
    assert {group.source for group in table.groups_on("gpu")} == {"recorded"}
    assert table.target == {"id": "t4", "name": "Tesla T4", "source": "recorded"}
    assert (table.coverage.group_share, table.coverage.cpu_time_share) == (1.0, pytest.approx(1.0))


def test_another_export_is_replayed_whole(save_model, here, elsewhere):
    other = on_cpu(tower(save_model, prefix="torch/", seed=1))
    assert other[1].model.sha256 != here[1].model.sha256
    table = with_gpu(*other, elsewhere)
    assert table.coverage.group_share == 1.0
    assert [g.latency_s for g in table.groups_on("gpu")] == [g.latency_s for g in elsewhere.groups_on("gpu")]
    assert all(set(group.unfused_s) == set(group.canonical) for group in table.groups_on("gpu"))


@pytest.fixture(scope="module")
def mixed(here, elsewhere):
    """Half of the groups recorded, the sizes of the last unknown to the fit."""
    kept = elsewhere.groups_on("gpu")[:10]
    graph, table = here
    last = replace(table.groups[-1], work={})
    return with_gpu(graph, replace(table, groups=(*table.groups[:-1], last)), replace(elsewhere, groups=kept))


def test_what_is_not_recorded_is_calibrated_then_from_the_sheet(here, mixed):
    gpu = mixed.groups_on("gpu")
    assert [group.nodes for group in gpu] == [group.nodes for group in mixed.groups_on("cpu")]
    assert [(g.source, g.backend) for g in gpu[:10]] == [("recorded", "tensorrt")] * 10
    assert {(g.source, g.backend) for g in gpu[10:-1]} == {("modelled", "calibrated")}
    assert (gpu[-1].source, gpu[-1].backend) == ("modelled", "roofline")
    assert mixed.target["source"] == "modelled"
    found = mixed.coverage
    assert (found.recorded, found.calibrated, found.datasheet, found.unknown) == (10, len(gpu) - 11, 1, 0)
    cpu = [group.latency_s for group in mixed.groups_on("cpu")]
    assert found.cpu_time_share == pytest.approx(sum(cpu[:10]) / sum(cpu))


def test_every_group_carries_its_own_interval_into_the_plan(here, mixed):
    gpu = [group for group in mixed.groups_on("gpu") if group.latency_s]
    factors = {
        "recorded": (0.8, 4 / 3),
        "calibrated": (1 / INTERVAL, INTERVAL),
        "roofline": (1 / SHEET_INTERVAL, SHEET_INTERVAL),
    }
    graph, _ = here
    evidence = Evidence(graph=graph, table=mixed, support={}, pins={})
    costed = {end: build_problem(evidence, Machine(cpu_workers=1, cores=1), gpu_scale=end) for end in ("low", "mid", "high")}
    seen = set()
    for group in gpu:
        kind = "recorded" if group.source == "recorded" else group.backend
        seen.add(kind)
        assert (group.low_s / group.latency_s, group.high_s / group.latency_s) == pytest.approx(factors[kind])
    assert seen == set(factors)
    ends = {"low": "low_s", "mid": "latency_s", "high": "high_s"}
    for index, atom in enumerate(costed["mid"].atoms):
        own = [group for group in gpu if set(group.canonical) <= set(atom.nodes)]
        for end, name in ends.items():
            assert costed[end].problem.gpu_s[index] == pytest.approx(sum(getattr(group, name) for group in own))


def test_without_a_sheet_what_cannot_be_priced_stays_on_the_cpu(here, elsewhere):
    graph, table = here
    stranger = replace(elsewhere, groups=elsewhere.groups_on("gpu")[:2], target={"name": "Nobody's GPU"})
    found = with_gpu(graph, table, stranger)
    assert (found.coverage.recorded, found.coverage.unknown) == (2, len(table.groups) - 2)
    unpriced = found.groups_on("gpu")[-1]
    assert (unpriced.latency_s, unpriced.unfused_s) == (None, {})
    assert "no recorded group" in unpriced.reason


def test_a_modelled_profile_is_no_recording(here):
    graph, table = here
    modelled = with_gpu(graph, table, datasheet("t4"))
    assert with_gpu(graph, table, modelled).coverage.recorded == 0
    assert with_gpu(graph, table, modelled).target["source"] == "modelled"


def test_other_sizes_are_not_matched_by_name(here, elsewhere):
    graph, table = here
    nameless = replace(elsewhere, groups=tuple(replace(group, signature="") for group in elsewhere.groups))
    assert with_gpu(graph, table, nameless).coverage.group_share == 1.0
    resized = replace(nameless, shapes={**nameless.shapes, "x": (4, 8)})
    assert with_gpu(graph, table, resized).coverage.recorded == 0


def test_a_profile_of_the_cpu_alone_is_refused(here, elsewhere):
    with pytest.raises(UsageError, match="holds no GPU costs"):
        with_gpu(*here, replace(elsewhere, groups=elsewhere.groups_on("cpu")))


@pytest.mark.parametrize(
    ("target", "sheet"),
    [
        ({"id": "l4"}, "l4"), ({"name": "Tesla T4"}, "t4"), ({"name": "NVIDIA A100-SXM4-80GB"}, "a100"),
        ({"name": "NVIDIA GeForce RTX 4090"}, "rtx4090"), ({"name": "NVIDIA H200"}, "h200"), ({"name": "NVIDIA L40S"}, None),
        ({"name": "NVIDIA A10G"}, None), ({}, None), (None, None),
    ],
)  # fmt: skip
def test_the_sheet_of_a_recorded_gpu(target, sheet):
    found = sheet_of(target)
    assert (found.id if found else None) == sheet
