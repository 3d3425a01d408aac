"""A recorded GPU that ships: made from profiles, read by its name, replayed before rates and before the data sheet."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.cli import workflow
from cutset.cli.output import Output
from cutset.errors import UsageError
from cutset.graph.load import load, with_operators
from cutset.profilers import shipped
from cutset.profilers.datasheets import datasheets
from cutset.profilers.inputs import collect, draw
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_child import SessionJob
from cutset.profilers.ort_cpu import observe
from cutset.profilers.ort_cuda import group_costs, profile_session
from cutset.profilers.profile import described, profile
from cutset.profilers.recorded import Recording
from cutset.profilers.shipped import record, shipped_device, write_recording
from cutset.profilers.table import CostTable
from cutset.profilers.without_device import sheet_of, with_gpu
from cutset.sample_models import registry
from tests.profile_tables import TRANSFERS, make_group, make_table

MOST_BYTES = 5_000_000
FLOAT = TensorProto.FLOAT


def tower(save_model, depth, step):
    """Return a dense network; networks of one step share their first layers."""
    rng = np.random.default_rng(depth)
    sizes = [8 + step * index for index in range(depth + 1)]
    nodes, weights, value = [], {}, "x"
    for index in range(depth):
        weights[f"w{index}"] = rng.normal(size=(sizes[index], sizes[index + 1])).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [f"m{index}"], name=f"dense{index}"))
        nodes.append(helper.make_node("Tanh", [f"m{index}"], [f"t{index}"], name=f"tanh{index}"))
        value = f"t{index}"
    nodes.append(helper.make_node("Softmax", [value], ["y"], name="last"))
    return load(save_model(nodes, [("x", FLOAT, [2, sizes[0]])], [("y", FLOAT, [2, sizes[-1]])], weights))


@pytest.fixture(scope="module")
def measured(save_model):
    """Two networks, each measured twice on this CPU: as it is planned with, and as a GPU's profile is made."""
    found = []
    for depth, step in ((6, 4), (9, 4)):
        graph = tower(save_model, depth, step)
        inputs = draw(graph.inputs, {}, seed=0)
        graph, table = profile(graph, inputs, target=None, options=ProfileOptions(budget_s=0.02))
        on_device = profile_session(graph, SessionJob(model=None, feed=inputs, budget_s=0.02))
        found.append((graph, table, replace(table, groups=group_costs(on_device, table.groups_on("cpu"), batch=1))))
    return found


@pytest.fixture(scope="module")
def folder(measured, tmp_path_factory):
    """Return a folder of recordings in which the first network was recorded as a GPU called h200."""
    made = record([measured[0][2]], [], target={"id": "h200", "name": "a stand-in"}, transfers=TRANSFERS)
    path = tmp_path_factory.mktemp("recorded")
    write_recording(made, path / "h200.json")
    return path


def test_what_is_recorded_is_replayed_and_the_rest_modelled_by_rates(measured, folder):
    recording = shipped_device("h200", folder)
    (graph, table, as_measured), (longer, longer_table, _) = measured
    found = with_gpu(graph, table, recording)
    assert found.target["source"] == "recorded"
    assert found.coverage.recorded == len(table.groups)
    by_nodes = {group.nodes: group for group in as_measured.groups}
    for group in found.groups_on("gpu"):
        assert group.latency_s == pytest.approx(by_nodes[group.nodes].latency_s)
        assert group.source == "recorded"
    other = with_gpu(longer, longer_table, recording)
    shared = {group.signature for group in as_measured.groups} & {group.signature for group in longer_table.groups}
    assert shared
    assert other.coverage.recorded == sum(group.signature in shared for group in longer_table.groups)
    assert other.coverage.calibrated == len(longer_table.groups) - other.coverage.recorded
    assert other.coverage.datasheet == other.coverage.unknown == 0


def test_a_recording_of_several_profiles_has_each_computation_once(measured):
    tables = [measured[0][2], measured[1][2]]
    made = record(tables, [], target={"id": "h200", "name": "a stand-in"}, transfers=TRANSFERS)
    signatures = [group.signature for group in made.groups]
    assert len(set(signatures)) == len(signatures)
    assert set(signatures) == {group.signature for table in tables for group in table.groups}
    together = Recording(made, same_run=False)
    for group in tables[0].groups:
        alike = [g.latency_s for table in tables for g in table.groups if g.signature == group.signature]
        assert together.find(group).latency_s == pytest.approx(np.mean(alike))


def test_groups_of_another_arithmetic_are_replayed_and_not_fitted_to():
    narrow = make_group("half", 2e-6, device="gpu")
    made = record(
        [make_table(make_group("a", 1e-3, device="gpu"))], [make_table(narrow)],
        target={"id": "h200", "name": ""}, transfers=TRANSFERS,
    )  # fmt: skip
    assert {group.signature: bool(group.work) for group in made.groups} == {"signature of a": True, "signature of half": False}
    assert Recording(made, same_run=False).find(make_group("half")).latency_s == 2e-6


def test_a_group_that_the_gpu_refuses_stays_refused():
    refused = make_group("u", None, device="gpu", reason="no kernel")
    made = record([make_table(refused, make_group("a", device="gpu"))], [], target={"id": "h200"}, transfers=TRANSFERS)
    found = Recording(made, same_run=False).find(make_group("u"))
    assert (found.latency_s, found.reason) == (None, "no kernel")


def choose(text, precision="fp32"):
    said = []
    output = Output(as_json=False, quiet=False, verbose=False)
    output.notice = said.append
    return workflow.choose_target(text, output, precision), said


def test_the_name_of_a_recorded_gpu_means_its_recording(folder, monkeypatch):
    assert choose("h200")[0] == datasheets()["h200"]
    monkeypatch.setattr(workflow, "shipped_device", partial(shipped_device, folder=folder))
    found, said = choose("h200")
    assert isinstance(found, CostTable)
    assert not said
    assert workflow.gpu_of(found).compute_capability == "9.0"
    found, said = choose("h200", "fp16")
    assert found == datasheets()["h200"]
    assert "recorded in fp32" in said[0]
    assert choose("t4")[0] == datasheets()["t4"]


def test_a_file_without_gpu_costs_says_so(tmp_path):
    write_recording(make_table(make_group("a")), tmp_path / "h200.json")
    with pytest.raises(UsageError, match="holds no GPU costs"):
        shipped_device("h200", tmp_path)


def test_nothing_to_record_is_an_error():
    with pytest.raises(UsageError, match="no profiles"):
        record([], [], target={}, transfers=())


def test_the_h100_that_ships_knows_a_model_that_it_recorded(tmp_path):
    recording = shipped_device("h100")
    assert len(recording.groups) == 373
    written = registry.write("encoder", tmp_path / "encoder.onnx")
    graph = with_operators(load(written.model))
    seen = observe(graph, collect(graph.inputs, model=written.model).samples[0])
    graph = graph.with_measured(seen.shapes, seen.dtypes)
    replayed = Recording(recording, same_run=False)
    found = [replayed.find(described(graph, group.nodes)) for group in seen.groups]
    assert sum(one is not None for one in found) > 0.95 * len(found), "signatures are not those of the recording"
    assert sum(one.latency_s or 0.0 for one in found if one) == pytest.approx(1.734e-3, rel=0.05)
    assert sheet_of(recording.target) == datasheets()["h100"]


@pytest.mark.parametrize("name", shipped.shipped())
def test_every_file_that_ships_can_be_used(name):
    table = shipped_device(name)
    assert (shipped.RECORDED / f"{name}.json").stat().st_size < MOST_BYTES
    assert name in datasheets()
    assert table.target["id"] == name
    assert {transfer.direction for transfer in table.transfers} == {"h2d", "d2h"}
    assert all(group.source == "measured" and group.signature for group in table.groups)
