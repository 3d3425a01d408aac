"""An engine answers nobody before its numbers were those of the stage's ONNX file; what came out is remembered."""

import json

import numpy as np
import pytest

from cutset.codegen.runtime.backends import engine_check
from cutset.codegen.runtime.backends.engine_check import Verdict, difference
from cutset.profilers.child import Failure, Limits, run_in_child
from tests.unit.codegen.runtime.fake_engines import SAMPLE, compared, served, write_stage

INF, NAN = np.inf, np.nan


def in_child(function, folder, driver):
    found = run_in_child(function, folder, limits=Limits(time_s=60), environment={"LD_LIBRARY_PATH": str(driver)})
    assert not isinstance(found, Failure), found
    return found


def test_engines_are_compared_once_and_wrong_ones_are_refused(fake_driver, tmp_path):
    found = in_child(compared, tmp_path, fake_driver)
    assert found["right"] == (["", ""], 1), "the second start knows the verdict"
    said, runs = found["wrong"]
    assert said[0] == said[1]
    assert said[0].startswith(
        "the engine's numbers are wrong: output 'y' differs from the stage's ONNX file by 0.5 of its magnit"
    )
    assert said[0].endswith("0.001 allowed")
    assert runs == 1
    assert "by infinities or not-a-numbers" in found["nan"][0][0]
    assert "by 0.005 of its magnitude, 0.001 allowed" in found["off"][0][0]
    assert found["tolerated"] == (["", ""], 1), "within what the plan allows"
    assert found["changed"] == (["", "", ""], 2), "another driver, and another engine, are compared again"


def test_a_package_goes_on_without_a_wrong_engine_and_says_why(fake_driver, package):
    tensors = {"x": ("float32", ["n", 4]), "to": ("int32", [1]), "y": ("float32", ["n", 4]), "kept": ("float32", ["k"])}
    tensors["rows"] = ("int64", [])
    made = package(tensors, [("gpu", [], ["x", "to"], ["y", "kept", "rows"])], inputs=["x", "to"], outputs=["y"])
    (entry,) = made.document["stages"]
    write_stage(made.folder / entry["model"])
    np.savez(made.folder / "stages" / "sample.npz", **SAMPLE)
    entry["backend"] = "tensorrt-rtx"
    entry["engine"] = {
        "backend": "tensorrt-rtx", "model": entry["model"], "precision": "fp32", "sample": "stages/sample.npz",
        "tolerance": 1e-3,
        "inputs": [{"name": "x", "shapes": [[1, 4], [2, 4], [8, 4]], "values": [[], [], []]},
                   {"name": "to", "shapes": [[1], [1], [1]], "values": [[], [], []]}],
    }  # fmt: skip
    made.write()
    found = in_child(served, made.folder, fake_driver)
    assert found["y"] == (2 * SAMPLE["x"]).tolist(), "onnxruntime answers"
    reason = "no engine runs it: the engine's numbers are wrong: output 'y' differs"
    assert reason in found["substitution"]
    assert any(reason in text for text in found["warned"])
    (line,) = found["metrics"]
    assert 'stage="0"' in line
    assert reason in line
    assert found["verdicts"] == [False]


@pytest.mark.parametrize(
    ("expected", "found", "size"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0),
        ([1.0, -4.0], [1.5, -4.0], 0.125),
        ([0.0, 0.0], [0.0, 0.25], 0.25),
        ([1.0, NAN, INF], [1.0, NAN, INF], 0),
        ([1.0, NAN], [1.0, 1.0], INF),
        ([1.0, 2.0], [1.0, NAN], INF),
        ([1.0, INF], [1.0, -INF], INF),
        ([1.0], [1.0, 2.0], INF),
        ([], [], 0),
    ],
)
def test_differences_of_floats(expected, found, size):
    assert difference(np.array(expected, np.float32), np.array(found, np.float32)) == size


def test_differences_of_other_types():
    assert difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert difference(np.array([True]), np.array([False])) == 1
    bits = (np.array([1.0, -4.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert difference(bits, (np.array([1.5, -4.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)) == 0.125
    assert difference(np.array([1.0], np.float32), np.array([1.0], np.float16)) == 0


def test_verdicts_that_cannot_be_read_or_kept_are_none(tmp_path):
    verdict = Verdict(ok=False, output="y", difference=INF, tolerance=0.01)
    engine_check._remember(tmp_path, "a", verdict)
    engine_check._remember(tmp_path, "b", verdict)
    assert engine_check._read(tmp_path) == {"a": verdict, "b": verdict}
    for text in (
        "{",
        "[]",
        json.dumps({"schema": "other", "verdicts": {}}),
        '{"schema": "cutset.verdicts/1", "verdicts": {"a": 1}}',
    ):
        (tmp_path / engine_check.FILE).write_text(text)
        assert engine_check._read(tmp_path) == {}
    (tmp_path / "file").write_text("")
    engine_check._remember(tmp_path / "file", "a", verdict)
    assert engine_check._read(tmp_path / "file") == {}
