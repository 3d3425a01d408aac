"""A model whose numbers change where it is cut: what must stay together does, and only pins can end the job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.cli import proven
from tests.e2e.harness import QUICK, load_inputs, onnx_file, package_of
from tests.support import load_pipeline, run_whole

CHANNELS = 32
FOR_A_GPU = ("--target", "a100", "--gpu-backend", "onnxruntime-cuda", "--json", *QUICK)


@pytest.fixture(scope="module")
def sensitive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions; onnxruntime folds a normalisation into the first, and a sine shows the last bits of the result."""
    rng = np.random.default_rng(0)
    shape = ["n", CHANNELS, 64, 64]
    weights = {name: rng.random(CHANNELS, np.float32) + 0.5 for name in ("scale", "bias", "mean", "variance")}
    weights |= {name: rng.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 16 for name in ("w1", "w2")}
    weights |= {"large": np.float32(3e6)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "variance"], ["n1"], name="norm"),
        helper.make_node("Mul", ["n1", "large"], ["m"], name="amplify"),
        helper.make_node("Sin", ["m"], ["s"], name="sine"),
        helper.make_node("Conv", ["s", "w2"], ["y"], name="second", pads=[1, 1, 1, 1]),
    ]
    ends = [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, shape)]
    path = onnx_file(tmp_path_factory.mktemp("sensitive") / "sensitive.onnx", nodes, *ends, weights=weights)
    np.savez(path.with_suffix(".npz"), x=rng.normal(size=(1, CHANNELS, 64, 64)).astype(np.float32))
    return path


def answers(out: Path, model: Path) -> float:
    """How far the package's answers are from the whole model's."""
    inputs = load_inputs(model)
    with load_pipeline(package_of(out / "serving")) as pipeline:
        return float(np.abs(pipeline.run(inputs)["y"] - run_whole(onnx.load(model), inputs)["y"]).max())


def test_what_must_not_be_cut_is_kept_together_and_the_rest_is_still_split(cutset, sensitive, tmp_path):
    done = cutset("partition", sensitive, "-o", tmp_path / "out", "--pin", "norm=cpu", *FOR_A_GPU)
    assert done.code == 0, done.err
    (kept,) = done.json["kept_together"]
    assert {"first", "norm"} <= set(kept["nodes"])
    assert kept["sentence"].count("%") == 2
    (home,) = [stage for stage in done.json["stages"] if "norm" in stage["nodes"]]
    assert {"first", "norm"} <= set(home["nodes"])
    assert home["device"] == "cpu"
    assert answers(tmp_path / "out", sensitive) == 0
    assert kept["sentence"].split(":")[0] in (tmp_path / "out" / "report.html").read_text()


def test_in_the_end_the_model_is_left_whole(cutset, sensitive, tmp_path, monkeypatch):
    monkeypatch.setattr(proven, "MOST_REPLANS", 0)
    done = cutset("partition", sensitive, "-o", tmp_path / "out", "--pin", "norm=cpu", *FOR_A_GPU)
    assert done.code == 0, done.err
    (kept,) = done.json["kept_together"]
    assert (kept["nodes"], kept["sentence"].startswith("left whole: cut, output `y` differs by")) == ([], True)
    assert done.json["decision"] == "unsplit-cpu"
    (stage,) = package_of(tmp_path / "out" / "serving").glob("stages/*")
    assert stage.read_bytes() == sensitive.read_bytes()


def test_pins_that_force_such_a_cut_end_the_job(cutset, sensitive, tmp_path):
    done = cutset("partition", sensitive, "-o", tmp_path / "out", "--pin", "norm=cpu", "--pin", "first=gpu", *FOR_A_GPU)
    assert (done.code, "output `y` of the parts differs" in done.error["what"]) == (4, True)
    assert "the pins force this cut (`norm` and `first` must stay together" in done.error["hint"]
    assert not (tmp_path / "out").exists()


def test_a_tolerance_that_was_given_is_the_last_word(cutset, sensitive, tmp_path):
    words = ("--pin", "norm=cpu", "--pin", "first=gpu", "--atol", "1e9", *FOR_A_GPU)
    done = cutset("partition", sensitive, "-o", tmp_path / "out", *words)
    assert (done.code, done.json["kept_together"], done.json["decision"]) == (0, [], "split")
