"""The cost table of a real model: every device covered, sums kept, the cache used, recorded profiles checked."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset import serde
from cutset.advisory import SkippedSteps, recording, skipped_steps
from cutset.errors import CutsetError, UnavailableError, UsageError
from cutset.graph.load import load
from cutset.profilers import profile as profiling
from cutset.profilers.cache import CostCache
from cutset.profilers.datasheets import datasheet
from cutset.profilers.inputs import draw
from cutset.profilers.on_device import MeasuredGpu
from cutset.profilers.options import ProfileOptions
from cutset.profilers.profile import profile
from cutset.profilers.roofline import transfer_times
from cutset.profilers.table import PROFILE_SCHEMA, read_profile
from cutset.profilers.timing import fit_affine

FLOAT = TensorProto.FLOAT
T4 = datasheet("t4")


def options(**settings):
    return ProfileOptions(budget_s=0.02, **settings)


@pytest.fixture(scope="module")
def cnn(cnn_path):
    return load(cnn_path)


@pytest.fixture(scope="module")
def sample(cnn):
    return draw(cnn.inputs, {}, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def measured(cnn, sample, folder):
    return profile(cnn, sample, target=T4, options=options(cache=CostCache(folder)))


def cached(cnn, sample, folder, target):
    return profile(cnn, sample, target=target, options=options(cache=CostCache(folder)))[1]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_groups_cover_every_node_once_per_device(measured, device):
    graph, table = measured
    covered = [name for group in table.groups_on(device) for name in group.nodes]
    assert sorted(covered) == sorted(node.name for node in graph.nodes)
    assert [g.nodes for g in table.groups_on(device)] == [g.nodes for g in table.groups_on("cpu")]


def test_cpu_groups_sum_to_the_session(measured):
    _, table = measured
    assert sum(group.latency_s for group in table.groups_on("cpu")) == pytest.approx(table.session("cpu").latency_s.median)
    assert all(group.low_s <= group.latency_s <= group.high_s for group in table.groups)


def test_every_number_says_where_it_came_from(measured):
    _, table = measured
    assert {group.source for group in table.groups_on("cpu")} == {"measured"}
    assert {group.source for group in table.groups_on("gpu")} == {"modelled"}
    assert table.target == {"id": "t4", "name": T4.name, "source": "modelled"}
    assert table.transfers == transfer_times(T4)
    for cpu, gpu in zip(table.groups_on("cpu"), table.groups_on("gpu"), strict=True):
        assert (cpu.flops, cpu.bytes) == (gpu.flops, gpu.bytes)
    assert sum(group.flops for group in table.groups_on("gpu")) > 0


def test_the_graph_gets_the_sizes_of_the_run(measured):
    graph, table = measured
    assert graph.shape("c1") == (1, 8, 16, 16)
    assert table.shapes["c1"] == (1, 8, 16, 16)
    assert table.model.nodes == len(graph.nodes)
    assert table.model.sha256 == graph.sha256


def test_without_a_target_there_is_only_the_cpu(cnn, sample, folder, measured):
    table = cached(cnn, sample, folder, None)
    assert (table.target, table.transfers, table.groups_on("gpu")) == (None, (), ())


def test_the_second_time_nothing_is_measured(cnn, sample, folder, measured):
    said = []
    cache = CostCache(folder)
    _, again = profile(cnn, sample, target=T4, options=options(cache=cache), progress=said.append)
    assert said == ["taking measured costs from the cache"]
    assert again == measured[1]


@pytest.mark.parametrize("change", ["threads", "shape", "no cache"])
def test_what_changes_the_costs_is_measured_again(cnn, sample, folder, measured, change):
    said = []
    inputs = {"x": np.repeat(sample["x"], 2, axis=0)} if change == "shape" else sample
    settings = {"threads": 2 if change == "threads" else 1, "cache": CostCache(None if change == "no cache" else folder)}
    profile(cnn, inputs, target=None, options=options(**settings), progress=said.append)
    assert "timing the whole model" in said


def test_an_entry_of_another_version_is_measured_again(cnn, sample, tmp_path, monkeypatch):
    cache = CostCache(tmp_path)
    monkeypatch.setattr(cache, "get", lambda _key: {"groups": "of old"})
    said = []
    profile(cnn, sample, target=None, options=options(cache=cache), progress=said.append)
    assert "timing the whole model" in said
    assert "timing the whole model" in said


def test_batches_are_measured_and_fitted(cnn, sample):
    graph, table = profile(cnn, sample, target=T4, options=options(batch=4))
    assert [session.batch for session in table.sessions] == [1, 2, 4]
    assert {group.batch for group in table.groups} == {4}
    assert graph.shape("x") == (4, 3, 16, 16)
    assert table.session("cpu").batch == 4
    alone = [session.latency_s.median for session in table.sessions]
    assert table.affine == fit_affine([1, 2, 4], alone)


def test_one_batch_has_no_fit(measured):
    assert measured[1].affine is None


@pytest.mark.parametrize("case", ["fixed", "two samples", "scalar"])
def test_what_cannot_be_batched(save_model, case):
    shape = {"fixed": [1, 4], "two samples": ["N", 4], "scalar": []}[case]
    graph = load(save_model([helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, shape)], [("y", FLOAT, shape)]))
    array = np.ones({"fixed": (1, 4), "two samples": (2, 4), "scalar": ()}[case], np.float32)
    with pytest.raises(UsageError, match="input `x` cannot be batched"):
        profile(graph, {"x": array}, target=None, options=options(batch=4))


def test_a_group_of_unknown_size_has_a_reason_and_no_cost(zipmap_path):
    graph = load(zipmap_path)
    _, table = profile(graph, draw(graph.inputs, {}, seed=0), target=T4, options=options())
    (unpriced,) = [group for group in table.groups_on("gpu") if "zip" in group.nodes]
    assert unpriced.latency_s is None
    assert "`probabilities`" in unpriced.reason


# Recorded profiles


@pytest.fixture(scope="module")
def recorded(measured):
    """A profile as a machine with the GPU would write it."""
    table = measured[1]
    groups = tuple(replace(group, source="measured") if group.device == "gpu" else group for group in table.groups)
    transfers = tuple(replace(transfer, source="measured") for transfer in table.transfers)
    return replace(table, target={**table.target, "source": "measured"}, groups=groups, transfers=transfers)


def test_a_profile_survives_its_file(recorded, tmp_path):
    text = serde.dumps(recorded)
    (tmp_path / "p.json").write_text(text, "utf-8")
    read = read_profile(tmp_path / "p.json")
    assert (read.groups, read.transfers, read.shapes) == (recorded.groups, recorded.transfers, recorded.shapes)
    assert serde.dumps(read) == text


def test_a_recorded_profile_brings_the_gpu(cnn, sample, folder, measured, recorded):
    table = cached(cnn, sample, folder, recorded)
    assert {group.source for group in table.groups_on("gpu")} == {"recorded"}
    assert {transfer.source for transfer in table.transfers} == {"recorded"}
    assert table.target["source"] == "recorded"
    assert [g.latency_s for g in table.groups_on("gpu")] == [g.latency_s for g in recorded.groups_on("gpu")]
    assert table.groups_on("cpu") == cached(cnn, sample, folder, None).groups


def test_a_modelled_number_stays_modelled(cnn, sample, folder, measured):
    table = cached(cnn, sample, folder, measured[1])
    assert {group.source for group in table.groups_on("gpu")} == {"modelled"}
    assert table.target["source"] == "modelled"


def test_a_recorded_profile_without_a_gpu(cnn, sample, folder, measured, recorded):
    with pytest.raises(UsageError, match="holds no GPU costs") as caught:
        cached(cnn, sample, folder, replace(recorded, groups=recorded.groups_on("cpu")))
    assert "--target" in caught.value.hint


@pytest.mark.parametrize("case", ["one way", "no speed", "none"])
def test_transfers_that_were_not_recorded(cnn, sample, folder, measured, recorded, case):
    """They come from the data sheet of the recorded GPU; of one that nobody knows, they may not be free."""
    transfers = {
        "one way": recorded.transfers[:1],
        "no speed": tuple(replace(transfer, bytes_per_s=0.0) for transfer in recorded.transfers),
        "none": (),
    }[case]
    partial = replace(recorded, transfers=transfers)
    assert cached(cnn, sample, folder, partial).transfers == transfer_times(T4)
    with pytest.raises(UsageError, match="what a copy to the GPU and back costs"):
        cached(cnn, sample, folder, replace(partial, target={"name": "Nobody's GPU"}))


@pytest.mark.parametrize(
    "text", ["{}", "not json", f'{{"schema": "{PROFILE_SCHEMA}"}}', f'{{"schema": "{PROFILE_SCHEMA}", "groups": 3}}']
)
def test_a_file_that_is_no_profile(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(CutsetError) as caught:
        read_profile(tmp_path / "p.json")
    assert "p.json" in str(caught.value)


@pytest.mark.parametrize("name", ["NVIDIA L4", "NVIDIA Unheard-of 9000"])
def test_a_gpu_of_this_machine_that_cannot_be_measured_is_modelled_if_there_is_a_data_sheet(
    cnn, sample, folder, monkeypatch, name
):
    def fails(*_arguments):
        raise UnavailableError("GPU 0 could not be measured", cause="no CUDA")

    monkeypatch.setattr(profiling, "gpus", lambda: (SimpleNamespace(name=name),))
    monkeypatch.setattr(profiling, "with_measured_gpu", fails)
    if "Unheard" in name:
        with pytest.raises(UnavailableError):
            cached(cnn, sample, folder, MeasuredGpu())
        return
    with recording(SkippedSteps()):
        table = cached(cnn, sample, folder, MeasuredGpu())
        (skipped,) = skipped_steps()
    assert (table.target["id"], table.target["source"]) == ("l4", "modelled")
    assert all(group.source == "modelled" for group in table.groups_on("gpu"))
    assert skipped["reason"] == "GPU 0 could not be measured: no CUDA"
