"""Fixtures of the end-to-end tests: the command line, a machine without cutset, and small models."""

from __future__ import annotations

import fcntl
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.e2e.exports import EVERY_EXPORT, Exported
from tests.e2e.harness import Alone, Cutset, onnx_file, write_model


@pytest.fixture(scope="session")
def cost_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cutset(tmp_path: Path, cost_cache: Path) -> Iterator[Cutset]:
    """The command line; whatever a test does with it, nothing may stay in TMPDIR."""
    (tmp_path / "cutset").mkdir()
    command = Cutset(tmp_path / "cutset", cost_cache)
    yield command
    assert command.left_in_tmp() == []


@pytest.fixture(scope="session")
def long_cutset(tmp_path_factory: pytest.TempPathFactory, cost_cache: Path) -> Cutset:
    """The command line for fixtures that outlive a test."""
    return Cutset(tmp_path_factory.mktemp("cutset"), cost_cache)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def exported(shared: Path, long_cutset: Cutset) -> Callable[[str], Exported]:
    """Return a function that gives a sample model with all of its exports, made once; it skips where there is no model."""

    @functools.cache
    def export(name: str) -> Exported:
        folder = shared / name
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "out").exists():
                model = write_model(name, folder)
                done = long_cutset.partition(model, folder / "out", "--cpu-workers", "2", "--emit", EVERY_EXPORT)
                assert done.code == 0, done.err
        return Exported(name=name, model=folder / f"{name}.onnx", folder=folder / "out")

    return export


@pytest.fixture(scope="session")
def without_cutset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH: a Python started with it has no cutset, as on the machine that serves."""
    folder = tmp_path_factory.mktemp("without-cutset")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['cutset'] = None\n")
    return folder


@pytest.fixture
def alone(without_cutset: Path, tmp_path: Path) -> Alone:
    (tmp_path / "elsewhere").mkdir()
    return Alone(without_cutset, tmp_path / "elsewhere")


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one string operator, one suppression and a matrix product; its inputs lie beside it."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("StringConcat", ["text", "suffix"], ["label"], name="concat"),
        helper.make_node("MatMul", ["x", "w"], ["hidden"], name="dense"),
        helper.make_node("Relu", ["hidden"], ["y"], name="relu"),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["kept"], name="nms"),
    ]
    inputs = [
        ("text", TensorProto.STRING, ["n"]),
        ("x", TensorProto.FLOAT, ["batch", 64]),
        ("boxes", TensorProto.FLOAT, [1, 6, 4]),
        ("scores", TensorProto.FLOAT, [1, 1, 6]),
    ]
    outputs = [
        ("label", TensorProto.STRING, ["n"]),
        ("y", TensorProto.FLOAT, ["batch", 64]),
        ("kept", TensorProto.INT64, ["k", 3]),
    ]
    weights = {
        "suffix": np.array(["!"], object),
        "w": rng.normal(size=(64, 64)).astype(np.float32),
        "most": np.array([3], np.int64),
    }
    path = onnx_file(tmp_path_factory.mktemp("mixed") / "mixed.onnx", nodes, inputs, outputs, weights=weights)
    arrays = {"text": np.array(["a", "b"]), "x": rng.random((1, 64), np.float32)}
    arrays |= {"boxes": rng.random((1, 6, 4), np.float32), "scores": rng.random((1, 1, 6), np.float32)}
    np.savez(path.with_suffix(".npz"), **arrays)
    return path


@pytest.fixture(scope="session")
def cnn_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small convolutional network with no inputs beside it."""
    weights = {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    inputs, outputs = [("x", TensorProto.FLOAT, ["n", 3, 8, 8])], [("y", TensorProto.FLOAT, ["n", 4, 8, 8])]
    return onnx_file(tmp_path_factory.mktemp("cnn") / "cnn.onnx", nodes, inputs, outputs, weights=weights)
