"""A merged profile loses nothing, and one machine of it is as it was."""

from dataclasses import replace

import pytest

from cutset import serde
from cutset.errors import UsageError
from cutset.profilers.merge import merge, one_machine, split
from cutset.profilers.table import Coverage, read_profile
from tests.profile_tables import make_group, make_table

LAPTOP = make_table(make_group("a"), cpu="Laptop")
SERVER = make_table(make_group("a"), make_group("a", 1e-5, device="gpu"), cpu="Server", affine=(0.0, 1e-4))
CLOUD = make_table(
    make_group("a"), make_group("a", 2e-5, device="gpu"), cpu="Cloud", target={"name": "NVIDIA L4"},
    coverage=Coverage(recorded=1, calibrated=0, datasheet=0, unknown=0, cpu_time_share=1.0),
)  # fmt: skip


def test_devices_are_numbered_by_machine():
    merged = merge([LAPTOP, SERVER])
    assert [group.device for group in merged.groups] == ["cpu:0", "cpu:1", "gpu:1"]
    assert [session.device for session in merged.sessions] == ["cpu:0", "cpu:1"]
    assert {transfer.device for transfer in merged.transfers} == {"gpu:1"}
    assert [machine.environment["cpu"] for machine in merged.machines] == ["Laptop", "Server"]


def test_it_comes_apart_again_from_its_file(tmp_path):
    file = tmp_path / "m.json"
    file.write_text(serde.dumps(merge([LAPTOP, SERVER, CLOUD])), "utf-8")
    assert [serde.dumps(part) for part in split(read_profile(file))] == [serde.dumps(part) for part in (LAPTOP, SERVER, CLOUD)]


def test_different_models_are_refused():
    with pytest.raises(UsageError, match="different models: m") as caught:
        merge([LAPTOP, replace(SERVER, model=replace(SERVER.model, sha256="b" * 64, file="other.onnx"))])
    assert "other.onnx" in caught.value.what
    assert caught.value.hint


def test_the_only_machine_with_a_gpu_needs_no_number():
    merged = merge([LAPTOP, SERVER])
    assert one_machine(merged, None, device="gpu", where="m.json") == SERVER
    assert one_machine(merged, 0, device="gpu", where="m.json") == LAPTOP
    assert one_machine(LAPTOP, None, device="gpu", where="m.json") == LAPTOP


def test_a_choice_is_listed():
    with pytest.raises(UsageError, match="2 machines to choose from") as caught:
        one_machine(merge([LAPTOP, SERVER, CLOUD]), None, device="gpu", where="m.json")
    assert "m.json#2: Cloud with NVIDIA L4" in caught.value.hint
    with pytest.raises(UsageError, match="there is no number 3"):
        one_machine(merge([LAPTOP, SERVER, CLOUD]), 3, where="m.json")
