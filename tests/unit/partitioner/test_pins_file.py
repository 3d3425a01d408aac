"""A pins file says what it means, says where it is wrong, and is read back as it was written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.errors import UsageError
from cutset.partitioner.pins import Keep, Kept, Pin
from cutset.partitioner.pins_file import PinsFile, read_pins, write_pins


@pytest.fixture
def read(tmp_path):
    def call(text):
        path = tmp_path / "pins.yaml"
        path.write_text(text, "utf-8")
        return read_pins(path)

    return call


def test_pins_and_what_is_kept(read, tmp_path):
    found = read("pins:\n  nms: cpu\n  'op:Resize': gpu\n  on: cpu\n  1: gpu\nkeep:\n- [a, b*]\n- - c\n")
    where = tmp_path / "pins.yaml"
    wanted = [("nms", "cpu"), ("op:Resize", "gpu"), ("on", "cpu"), ("1", "gpu")]
    assert found.pins == tuple(Pin(pattern=p, device=d, origin=f"{where}:{line}") for line, (p, d) in enumerate(wanted, 2))
    assert found.keeps == (
        Keep(patterns=("a", "b*"), origin=f"{where}:7"),
        Keep(patterns=("c",), origin=f"{where}:8"),
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "pins: {}\n", "keep: []\n"])
def test_a_file_may_say_nothing(read, text):
    assert read(text) == PinsFile()


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("pins:\n  a: tpu\n", 2, "`a` is pinned to 'tpu'"),
        ("pins:\n  a: cpu\n  b: gpu\n  a: gpu\n", 4, "`a` is there twice"),
        ("pin:\n  a: cpu\n", 2, "`pin` is no section"),
        ("- a\n", 1, "the file is not a mapping"),
        ("pins: [a]\n", 1, "`pins` is not a mapping"),
        ("pins:\n  a: [cpu]\n", 2, "the device of `a` is not a name"),
        ("pins:\n  [a]: cpu\n", 2, "a key of `pins` is not a name"),
        ("keep:\n- a\n", 2, "an entry of `keep` is not a list"),
        ("keep:\n- [{a: b}]\n", 2, "a node to keep is not a name"),
        ("keep:\n-  []\n", 2, "names no node"),
        ("pins:\n  a: cpu\n b: gpu\n", 3, "is not YAML"),
        ("pins: {a: cpu\n", 2, "is not YAML"),
        ("pins: *nowhere\n", 1, "is not YAML"),
        ("pins: {a: cpu}\n---\npins: {}\n", 2, "is not YAML"),
        ("pins:\n " + "[" * 16_000, 2, "nested more than 50 deep"),
    ],
)
def test_what_is_wrong_names_its_line(read, tmp_path, text, line, what):
    with pytest.raises(UsageError) as caught:
        read(text)
    assert what in caught.value.what
    assert caught.value.where == f"{tmp_path / 'pins.yaml'}:{line}"


def test_files_that_cannot_be_read(tmp_path, read):
    with pytest.raises(UsageError, match="cannot read the pins file"):
        read_pins(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read the pins file"):
        read_pins(tmp_path / "binary.yaml")


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    devices=st.dictionaries(NAMES, st.sampled_from(["cpu", "gpu"]), max_size=6), kept=st.lists(NAMES, min_size=1, max_size=3)
)
def test_what_is_written_is_read_back(tmp_path_factory, devices, kept):
    path = tmp_path_factory.mktemp("pins") / "pins.yaml"
    write_pins(path, devices, [Kept(nodes=tuple(kept), origin="somewhere")])
    found = read_pins(path)
    assert {pin.pattern: pin.device for pin in found.pins} == devices
    assert [keep.patterns for keep in found.keeps] == [tuple(kept)]
