"""Running sample models, looking inside them, and a package index made of local files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

Arrays = dict[str, npt.NDArray[Any]]
Run = Callable[[onnx.ModelProto, Mapping[str, npt.NDArray[Any]]], Arrays]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a model once on the CPU and name its outputs."""

    def run_once(model: onnx.ModelProto, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if any(entry.domain == "com.microsoft.extensions" for entry in model.opset_import):
            options.register_custom_ops_library(
                pytest.importorskip("onnxruntime_extensions").get_library_path(),
            )
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run_once


@pytest.fixture(scope="session")
def exposing() -> Callable[[onnx.ModelProto, Iterable[str]], onnx.ModelProto]:
    """Copy a model so that values inside it are outputs too."""

    def expose(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        known = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
        copy.graph.output.extend(known[name] for name in names)
        return copy

    return expose


@pytest.fixture(scope="session")
def noise_photo() -> Callable[[int, int], npt.NDArray[np.uint8]]:
    """Make a photo of any size: a colour gradient under noise."""

    def make(height: int, width: int) -> npt.NDArray[np.uint8]:
        ramp = np.linspace(0, 200, height)[:, None, None] * np.linspace(0.2, 1, width)[None, :, None]
        noise = np.random.default_rng(height * 10007 + width).integers(0, 55, (height, width, 3))
        return (ramp + noise).astype(np.uint8)

    return make


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make pip look for packages in a folder and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture(scope="session")
def make_wheel() -> Callable[[Path, str, str, Mapping[str, bytes]], Path]:
    """Write a wheel that pip takes."""

    def make(folder: Path, package: str, version: str, files: Mapping[str, bytes]) -> Path:
        name = package.replace("-", "_")
        info = f"{name}-{version}.dist-info"
        wheel = folder / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
            for path, data in files.items():
                archive.writestr(path, data)
        return wheel

    return make
