"""Sample inputs: what is given is checked against the model, what is drawn fits it and is the same every time."""

import os
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.errors import UnknownShapeError, UsageError
from cutset.graph.types import TensorSpec
from cutset.profilers.inputs import (
    SAMPLES_TO_DRAW,
    collect,
    draw,
    parse_shape,
    parse_shape_range,
    read_npz,
    read_samples,
    sizes_of,
    write_npz,
)

NOWHERE = Path("no-such-folder/m.onnx")


def spec(name="x", dtype="float32", shape=("N", 3)):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


# --shape


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [
        ("x=1x3x224x224", "x", (1, 3, 224, 224)),
        ("x=7", "x", (7,)),
        ("x=2X3", "x", (2, 3)),
        ("x=0x3", "x", (0, 3)),
        ("x=1x3:4x3:8x3", "x", (4, 3)),
        ("a=b:0=2x3", "a=b:0", (2, 3)),
        ("/m/in:0=5", "/m/in:0", (5,)),
    ],
)
def test_a_shape(text, name, shape):
    assert parse_shape(text) == (name, shape)


@pytest.mark.parametrize(
    "text", ["", "x", "x=", "=3", "1x3", "x=1x", "x=ax3", "x=-1x3", "x=1x3:4x3", "x=1:2:3:4", "x=1.5", "x=::"]
)
def test_what_is_no_shape(text):
    with pytest.raises(UsageError) as caught:
        parse_shape(text)
    assert repr(text) in caught.value.what
    assert "name=1x3x224x224" in caught.value.what


@given(st.text(min_size=1), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_any_name_may_be_given(name, sizes):
    assert parse_shape(f"{name}={'x'.join(map(str, sizes))}") == (name, tuple(sizes))


# --inputs


def test_a_file_of_arrays(tmp_path):
    arrays = {"x": np.ones((2, 3), np.float32), "名/0": np.array([True]), "s": np.array(["a", "bc"]), "k": np.array(3)}
    np.savez(tmp_path / "s.npz", **arrays)
    specs = [spec(), spec("名/0", "bool", (1,)), spec("s", "string", (2,)), spec("k", "int64", ())]
    got = read_npz(tmp_path / "s.npz", specs)
    assert list(got) == ["x", "名/0", "s", "k"]
    assert got["s"].dtype == object
    assert got["s"].tolist() == ["a", "bc"]
    assert got["k"].shape == ()


def test_written_samples_come_back(tmp_path):
    arrays = {
        '"},{': np.arange(6, dtype=np.float32).reshape(2, 3),
        "../up": np.array(["a", ""], dtype=object),
        "half": np.ones((1, 2), ml_dtypes.bfloat16),
        "scalar": np.array(7),
    }
    specs = [
        spec('"},{', shape=(2, 3)),
        spec("../up", "string", (2,)),
        spec("half", "bfloat16", (1, 2)),
        spec("scalar", "int64", ()),
    ]
    write_npz(tmp_path / "s.npz", arrays)
    got = read_npz(tmp_path / "s.npz", specs)
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


def test_arrays_in_another_memory_order_are_taken(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)))
    got = read_npz(tmp_path / "s.npz", [spec()])["x"]
    assert got.flags.c_contiguous
    assert got[1].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "lacks input `x`"),
        ({"y": np.ones(3)}, "lacks input `x`"),
        ({"x": np.ones((2, 3), np.float32), "z": np.ones(3)}, "holds `z`, which is not an input"),
        ({"x": np.ones((2, 3))}, "type float64, expected float32"),
        ({"x": np.ones((2, 3), np.int32)}, "type int32, expected float32"),
        ({"x": np.array([["a"] * 3])}, "expected float32"),
        ({"x": np.ones(3, np.float32)}, "is float32 [3], expected float32 [N, 3]"),
        ({"x": np.ones((2, 4), np.float32)}, "is float32 [2, 4], expected float32 [N, 3]"),
        ({"x": np.ones((1, 2, 3), np.float32)}, "expected float32 [N, 3]"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, words):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(UsageError) as caught:
        read_npz(tmp_path / "s.npz", [spec()])
    assert words in caught.value.what


class Boom:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran')",)


def damaged(path):
    np.savez_compressed(path, x=np.random.default_rng(0).random(1000))
    data = bytearray(path.read_bytes())
    for index in range(300, 500):
        data[index] ^= 0x55
    return bytes(data)


def archive(path, content):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", content)
    return path.read_bytes()


def huge_header(path):
    with zipfile.ZipFile(path, "w") as file, file.open("x.npy", "w") as entry:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)}
        np.lib.format.write_array_header_1_0(entry, header)
    return path.read_bytes()


BAD = {
    "empty": lambda _path: b"",
    "text": lambda _path: b"1, 2, 3",
    "pickle": lambda _path: pickle.dumps(Boom()),
    "one array": lambda _path: np.lib.format.magic(1, 0) + bytes(100),
    "pickled arrays": lambda path: np.savez(path, x=np.array([Boom()], dtype=object)) or path.read_bytes(),
    "damaged": damaged,
    "no array": lambda path: archive(path, b"hello"),
    "cut header": lambda path: archive(path, np.lib.format.magic(1, 0)),
    "huge": huge_header,
    "header of brackets": lambda path: archive(path, b"\x93NUMPY\x01\x00" + (4001).to_bytes(2, "little") + b"(" * 4000 + b"\n"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_cannot_be_read(tmp_path, kind):
    path = tmp_path / "s.npz"
    path.write_bytes(BAD[kind](path))
    with pytest.raises(UsageError, match="cannot read sample inputs") as caught:
        read_npz(path, [spec()])
    assert "numpy.savez" in caught.value.hint


def test_a_missing_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for path in (tmp_path / "absent.npz", tmp_path, tmp_path / "pipe.npz", Path("/dev/zero")):
        with pytest.raises(UsageError, match="cannot read sample inputs"):
            read_npz(path, [spec()])


def test_the_file_beside_the_model_is_used(tmp_path):
    np.savez(tmp_path / "m.npz", x=np.full((1, 3), 7, np.float32))
    found = collect([spec()], model=tmp_path / "m.onnx")
    assert found.origin.endswith("m.npz")
    assert found.samples[0]["x"].tolist() == [[7, 7, 7]]
    np.savez(tmp_path / "other.npz", x=np.full((1, 3), 8, np.float32))
    given_file = collect([spec()], model=tmp_path / "m.onnx", file=tmp_path / "other.npz")
    assert given_file.samples[0]["x"][0, 0] == 8
    sized = collect([spec()], model=tmp_path / "m.onnx", shapes={"x": (4, 3)})
    assert sized.origin.startswith("drawn")
    assert sized.samples[0]["x"].shape == (4, 3)


# Drawing


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("float32", 0, 1), ("float64", 0, 1), ("float16", 0, 1), ("bfloat16", 0, 1), ("uint8", 0, 255), ("int8", 0, 1),
     ("int32", 0, 1), ("int64", 0, 1), ("uint16", 0, 1), ("bool", 0, 1)],
)  # fmt: skip
def test_values_by_type(dtype, low, high):
    wanted = spec(dtype=dtype, shape=(50, 3))
    got = draw([wanted], {}, seed=1)["x"]
    assert got.dtype == wanted.numpy_dtype
    values = got.astype(np.float64)
    assert low <= values.min() < values.max() <= high


def test_strings_and_scalars():
    got = draw([spec("s", "string", (4, 2)), spec("t", "string", ()), spec("k", "float32", ())], {}, seed=1)
    assert all(isinstance(word, str) for word in got["s"].ravel())
    assert got["s"].dtype == object
    assert got["t"].shape == got["k"].shape == ()


def test_draws_repeat_and_differ_by_seed():
    specs = [spec(), spec("s", "string", (5,))]
    first, again = (collect(specs, model=NOWHERE, seed=3) for _ in range(2))
    assert len(first.samples) == SAMPLES_TO_DRAW
    for one, other in zip(first.samples, again.samples, strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])
        assert one["s"].tolist() == other["s"].tolist()
    assert not np.array_equal(first.samples[0]["x"], first.samples[1]["x"])
    assert not np.array_equal(first.samples[0]["x"], collect(specs, model=NOWHERE, seed=9).samples[0]["x"])
    assert "seed 3" in first.origin


def test_a_free_first_dimension_is_one_wherever_its_name_appears():
    got = draw([spec("x", shape=("N", 3)), spec("lengths", "int64", ("N",)), spec("mask", shape=(2, "N"))], {}, seed=0)
    assert sizes_of(got) == {"x": (1, 3), "lengths": (1,), "mask": (2, 1)}


def test_a_given_size_binds_its_name_everywhere():
    specs = [spec("ids", "int64", ("N", "S")), spec("mask", "int64", ("N", "S"))]
    assert sizes_of(draw(specs, {"ids": (2, 16)}, seed=0)) == {"ids": (2, 16), "mask": (2, 16)}


def test_the_free_length_of_strings_is_one_too():
    specs = [spec("text", "string", ("batch",)), spec("mask", "bool", ("batch",)), spec("more", "string", ("other", 2))]
    assert sizes_of(draw(specs, {}, seed=0)) == {"text": (1,), "mask": (1,), "more": (1, 2)}
    assert sizes_of(draw(specs, {"text": (3,)}, seed=0)) == {"text": (3,), "mask": (3,), "more": (1, 2)}


@pytest.mark.parametrize(
    ("shape", "words"),
    [(("N", "S"), "dimension 1 (`S`)"), (("N",), "dimension 0 (`N`)"), (None, "no known rank"), ((2, None), "dimension 1")],
)
def test_a_free_dimension_names_input_and_dimension(shape, words):
    with pytest.raises(UnknownShapeError) as caught:
        collect([spec("ids", "int64", shape)], model=NOWHERE)
    assert caught.value.what.startswith("input `ids` has no known")
    assert words in caught.value.what
    assert "--inputs" in caught.value.hint


@pytest.mark.parametrize("given_shape", [(2, 4), (2,), (2, 3, 1)])
def test_a_size_that_contradicts_the_model(given_shape):
    with pytest.raises(UsageError, match=r"the model declares \[N, 3\]"):
        draw([spec()], {"x": given_shape}, seed=0)


def test_a_size_for_no_input():
    with pytest.raises(UsageError, match="--shape names `z`, which is not an input") as caught:
        collect([spec()], model=NOWHERE, shapes={"z": (1,)})
    assert "`x` (float32 [N, 3])" in caught.value.hint


def test_only_tensors_can_be_drawn():
    with pytest.raises(UsageError, match="only plain tensors"):
        draw([spec(dtype="seq(float32)", shape=None)], {"x": (1,)}, seed=0)


@pytest.mark.parametrize(
    ("text", "ranges"),
    [("x=2x3", ((2, 3),) * 3), ("a=b=1x3:8x3:32x3", ((1, 3), (8, 3), (32, 3))), ("x=4:4:4", ((4,), (4,), (4,)))],
)
def test_ranges_of_shapes(text, ranges):
    assert parse_shape_range(text)[1] == ranges
    assert parse_shape(text)[1] == ranges[1]


@pytest.mark.parametrize("text", ["x=8x3:1x3:32x3", "x=1:2:3x4", "x=1x3:2x3", "x=1:2:3:4", "x=::", "=1:2:3"])
def test_ranges_that_are_none(text):
    with pytest.raises(UsageError, match="--shape"):
        parse_shape_range(text)


def test_samples_of_one_and_of_several(tmp_path):
    spec = TensorSpec(name="x", dtype="float32", shape=("n", 3))
    for array, count in ((np.ones((2, 3), "f"), 1), (np.ones((4, 2, 3), "f"), 4)):
        np.savez(tmp_path / "x.npz", x=array)
        found = read_samples(tmp_path / "x.npz", [spec])
        assert [sample["x"].shape for sample in found] == [(2, 3)] * count
    np.savez(tmp_path / "x.npz", x=np.ones((0, 2, 3), "f"))
    with pytest.raises(UsageError, match="samples"):
        read_samples(tmp_path / "x.npz", [spec])
    np.savez(tmp_path / "x.npz", x=np.ones((4, 2, 5), "f"))
    with pytest.raises(UsageError, match=r"\[2, 5\]"):
        read_samples(tmp_path / "x.npz", [spec])


# Inputs with a default


OPTIONAL = [
    spec("x", "float32", ("batch", 2)),
    TensorSpec(name="gain", dtype="float32", shape=("k",), default=np.array([2.0, 0.0], np.float32)),
    TensorSpec(name="mode", dtype="int64", shape=(), default=np.array(7)),
    spec("of_k", "float32", (1, "k")),
]


def test_the_first_sample_has_the_defaults_and_others_float_values_near_them():
    samples = collect(OPTIONAL, model=NOWHERE).samples
    assert samples[0]["gain"].tolist() == [2.0, 0.0]
    for sample in samples[1:]:
        assert np.all(sample["gain"] != samples[0]["gain"])
        assert np.all(np.abs(sample["gain"] - samples[0]["gain"]) <= 1.0)
        assert sample["gain"].dtype == np.float32
    assert all(sample["mode"] == 7 for sample in samples)
    assert samples[0]["of_k"].shape == (1, 2)


def test_a_shape_that_is_given_wins_over_the_default():
    assert sizes_of(draw(OPTIONAL, {"gain": (3,)}, seed=0)) == {"x": (1, 2), "gain": (3,), "mode": (), "of_k": (1, 3)}


def test_a_file_may_leave_out_what_has_a_default(tmp_path):
    path = tmp_path / "s.npz"
    given = {"x": np.zeros((1, 2), np.float32), "of_k": np.zeros((1, 2), np.float32), "mode": np.array(3)}
    write_npz(path, given)
    found = read_npz(path, OPTIONAL)
    assert (found["mode"], found["gain"].tolist()) == (3, [2.0, 0.0])
    write_npz(path, {name: np.stack([array] * 2) for name, array in given.items()})
    assert [sample["gain"].tolist() for sample in read_samples(path, OPTIONAL)] == [[2.0, 0.0]] * 2
    write_npz(path, {"gain": np.ones(2, np.float32)})
    with pytest.raises(UsageError, match="lacks input `of_k`"):
        read_npz(path, OPTIONAL)
