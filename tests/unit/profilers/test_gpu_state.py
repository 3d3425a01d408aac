"""The state of a GPU from the line that nvidia-smi prints; every field may be missing."""

import pytest

from cutset.profilers.gpu_state import GpuState, gpu_state, parse

H200 = "1980, 1980, 3201, 3201, 34, 119.52, 1024, 143771, 3\n"
JETSON = "1300, [N/A], [N/A], [N/A], 51, [Not Supported], [N/A], [N/A], [N/A]\n"


def test_every_field_in_base_units():
    assert parse(H200) == GpuState(
        sm_clock_hz=1.98e9,
        sm_clock_limit_hz=1.98e9,
        memory_clock_hz=3.201e9,
        memory_clock_limit_hz=3.201e9,
        temperature_c=34.0,
        power_w=119.52,
        used_bytes=1 << 30,
        total_bytes=143771 << 20,
        busy=0.03,
    )


def test_fields_that_the_driver_does_not_give():
    state = parse(JETSON)
    assert state is not None
    assert (state.sm_clock_hz, state.temperature_c) == (1.3e9, 51.0)
    assert [state.power_w, state.used_bytes, state.busy, state.at_full_clock] == [None] * 4


@pytest.mark.parametrize(("clock", "full"), [(1980, True), (1800, True), (345, False)])
def test_clocks_below_the_highest(clock, full):
    state = parse(H200.replace("1980", str(clock), 1))
    assert state is not None
    assert state.at_full_clock is full


@pytest.mark.parametrize("text", ["", "No devices were found\n", "1, 2\n"])
def test_other_answers_are_no_state(text):
    assert parse(text) is None


def test_the_device_is_asked_for_by_its_address(fake_smi):
    (fake_smi / "output").write_text(H200)
    state = gpu_state("0000:0A:00.0")
    assert state is not None
    assert state.power_w == 119.52
    assert "--id=0000:0A:00.0" in (fake_smi / "asked").read_text()


def test_a_tool_that_fails_or_is_missing(fake_smi, monkeypatch):
    assert gpu_state("0000:0A:00.0") is None  # prints nothing, status 1
    monkeypatch.setenv("PATH", str(fake_smi.parent / "empty"))
    assert gpu_state("0000:0A:00.0") is None
