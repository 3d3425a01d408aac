"""Engines of the library in Python whose numbers are right, wrong or none, and packages that load them.

The functions run in a child process, where the CUDA driver made of host memory can be loaded.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.runtime import Pipeline
from cutset.codegen.runtime.backends import engine_check
from cutset.codegen.runtime.backends import tensorrt as backend
from cutset.codegen.runtime.backends.base import BackendError, BackendOptions
from cutset.codegen.runtime.budget import MemoryBudget
from cutset.codegen.runtime.metrics import render
from tests.unit.codegen.runtime.fake_library import install, stage_in

OPTIONS = BackendOptions(intra_op_threads=1, custom_ops=())
SAMPLE = {"x": np.array([[1, -2, 3, 0.5], [4, 0, -1, 2]], np.float32), "to": np.array([7], np.int32)}


def write_stage(path: Path) -> None:
    """Write what the engine is of: y = 2 x, the elements above zero, and the number of rows."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("Greater", ["x", "zero"], ["above"]),
        helper.make_node("Reshape", ["x", "flat"], ["row"]),
        helper.make_node("Reshape", ["above", "flat"], ["above_row"]),
        helper.make_node("Compress", ["row", "above_row"], ["kept"]),
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Gather", ["size", "first"], ["rows"]),
    ]
    value = helper.make_tensor_value_info
    weights = {"zero": np.float32(0), "flat": np.array([-1]), "first": np.int64(0)}
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 4]), value("to", TensorProto.INT32, [1])],
        [
            value("y", TensorProto.FLOAT, ["n", 4]),
            value("kept", TensorProto.FLOAT, ["k"]),
            value("rows", TensorProto.INT64, []),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def load(folder: Path, plan: bytes, *, tolerance: float = 1e-3, driver: str = "580") -> str:
    """Load a stage whose engine is built as `plan`; return why it is refused, empty where it is taken."""
    install()
    stage = stage_in(folder)
    write_stage(stage.model)
    np.savez(folder / "sample.npz", **SAMPLE)
    engine = replace(stage.engine, sample=folder / "sample.npz", tolerance=tolerance)
    stage = replace(stage, engine=engine)

    def build(job):
        Path(job.engine).write_bytes(plan)
        return SimpleNamespace(seconds=1.0)

    backend.build_apart = build
    here = backend.builder_here
    backend.builder_here = lambda *words: replace(here(*words), driver=driver)
    try:
        backend.TensorRtBackend.load(stage, OPTIONS).close()
    except BackendError as error:
        return str(error)
    finally:
        backend.builder_here = here
    return ""


def compared(folder: Path) -> dict:
    """Load engines one after the other, each by two starts; return what came of them, and how often onnxruntime ran."""
    runs: list[str] = []
    compare = engine_check.compare
    engine_check.compare = lambda *words: runs.append(words[1].model.name) or compare(*words)
    found: dict = {}
    for name, plan, settings in (
        ("right", b"plan", {}),
        ("wrong", b"triples", {}),
        ("nan", b"nan", {}),
        ("off", b"slightly off", {}),
        ("tolerated", b"slightly off", {"tolerance": 0.02}),
    ):
        where = folder / name
        where.mkdir()
        runs.clear()
        found[name] = [load(where, plan, **settings) for _ in range(2)], len(runs)
    runs.clear()
    again = [load(folder / "right", b"plan", driver="590")]
    (folder / "right" / "engines" / "engines.json").unlink()
    again.append(load(folder / "right", b"another", driver="590"))
    again.append(load(folder / "right", b"another", driver="590"))
    found["changed"] = again, len(runs)
    return found


def served(folder: Path) -> dict:
    """Load a package whose engine is wrong; return what it answers, and what it says of the stage."""
    install()

    def build(job):
        Path(job.engine).write_bytes(b"triples")
        return SimpleNamespace(seconds=1.0)

    backend.build_apart = build
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Pipeline.load(folder) as pipeline:
            outputs = pipeline.run(SAMPLE)
            (stage,) = pipeline.stats().stages
            service = SimpleNamespace(pipeline=pipeline, answers={}, memory=MemoryBudget(1))
            metrics = render(service).decode()
    verdicts = json.loads((folder / "engines" / "verdicts.json").read_text())["verdicts"]
    return {
        "y": outputs["y"].tolist(),
        "warned": [str(one.message) for one in caught],
        "substitution": stage.substitution,
        "metrics": [line for line in metrics.splitlines() if line.startswith("cutset_stage_substituted{")],
        "verdicts": [entry["ok"] for entry in verdicts.values()],
    }
