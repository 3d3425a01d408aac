"""A model repository for Triton: one model a stage, and the ensemble that joins them under the served name.

Source:
    NVIDIA Triton Inference Server, model repository, model configuration and ensembles.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cutset.codegen.export.names import TRITON, legal_name
from cutset.codegen.export.pbtxt import Message, Symbol, to_pbtxt
from cutset.codegen.export.source import Source
from cutset.codegen.project import requirement, templates
from cutset.codegen.runtime.backends.base import GPU_BATCH
from cutset.codegen.runtime.config import StageConfig, TensorConfig
from cutset.codegen.runtime.wire import encode_raw
from cutset.codegen.split import RENAMED, copy_model_files
from cutset.errors import UsageError

TritonBackend = Literal["python", "onnxruntime"]
REPOSITORY = "model_repository"
RUNTIME = Path(__file__).parents[1] / "runtime"
MODEL = Path(__file__).with_name("triton_model.py")
MAX_WARM_UP_BYTES = 2**24


def write_triton(source: Source, folder: Path, backend: TritonBackend) -> None:
    """Write ``model_repository/`` into `folder`.

    Args:
        source: The package.
        folder: Made if it is not there.
        backend: What runs the stages: Triton's own ONNX Runtime backend, or Python over the package's runtime.

    Raises:
        UsageError: If Triton cannot serve this model, or not with this backend; the message says why.
    """
    _check(source, backend)
    repository = folder / REPOSITORY
    for stage in source.plan.stages:
        model = repository / stage_name(source, stage)
        version = model / "1"
        version.mkdir(parents=True)
        config = _stage_config(source, stage, backend)
        warm_up = _write_warm_up(source, stage, model)
        (model / "config.pbtxt").write_text(to_pbtxt(config | warm_up), "utf-8")
        if backend == "python":
            _write_python(source, stage, version)
        else:
            _write_onnx(stage, version)
    ensemble = repository / legal_name(source.plan.name, TRITON)
    (ensemble / "1").mkdir(parents=True)
    (ensemble / "1" / ".keep").write_text("Triton wants a version folder, and copies of empty folders get lost.\n")
    (ensemble / "config.pbtxt").write_text(to_pbtxt(_ensemble_config(source)), "utf-8")
    (folder / "perf_analyzer.json").write_text(json.dumps({"data": [_perf_analyzer(source)]}), "utf-8")
    (folder / "README.md").write_text(_readme(source, backend), "utf-8")


def stage_name(source: Source, stage: StageConfig) -> str:
    """Return the name of a stage's model."""
    return f"{legal_name(source.plan.name, TRITON)}.{stage.index:02d}_{stage.device}"


def rows_limit(source: Source, stage: StageConfig) -> int:
    """Return the most rows of one run, 0 where Triton must not batch."""
    if not stage.batchable:
        return 0
    rows = source.plan.max_batch or (GPU_BATCH if stage.device == "gpu" else 0)
    given = [source.values[name] for name in (*stage.inputs, *stage.outputs)]
    return rows if all(np.ndim(value) and 0 < len(value) <= rows for value in given) else 0


def _check(source: Source, backend: TritonBackend) -> None:
    plan = source.plan
    names = [name for stage in plan.stages for name in (*stage.inputs, *stage.outputs)]
    crossing = [source.tensors[name] for name in dict.fromkeys(names) if name in source.tensors]
    opaque = [tensor for tensor in crossing if tensor.element is None]
    unranked = [tensor for tensor in crossing if tensor.shape is None]
    read = {name for stage in plan.stages for name in stage.inputs}
    written = {name for stage in plan.stages for name in stage.outputs}
    unread = [tensor for tensor in plan.inputs if tensor.name not in read]
    passed_on = [tensor for tensor in plan.outputs if tensor.name not in written]
    dry = [stage for stage in plan.stages if not stage.inputs]
    reasons = [
        *(f"`{tensor.name}` is a {tensor.dtype}, and Triton knows tensors only" for tensor in opaque),
        *(f"`{tensor.name}` has no known number of dimensions" for tensor in unranked),
        *(f"no stage reads the input `{tensor.name}`, and Triton's ensembles use every input" for tensor in unread),
        *(f"the output `{tensor.name}` is an input, which Triton's ensembles cannot pass on" for tensor in passed_on),
        *(f"stage {stage.index} has no inputs, and Triton's models have some" for stage in dry),
    ]
    if backend == "onnxruntime" and plan.custom_ops:
        reasons.append("the model has custom operators, which Triton's ONNX Runtime backend does not load by itself")
    if backend == "onnxruntime" and source.graph.keeps_dropout:
        reasons.append("the model has a Dropout that draws, which Triton's ONNX Runtime backend takes out")
    if backend == "python":
        raw = [tensor for tensor in crossing if tensor.dtype == "bfloat16"]
        reasons += [f"`{tensor.name}` is bfloat16, which Triton's Python backend has no arrays of" for tensor in raw]
    if reasons:
        other = "onnxruntime" if backend == "python" else "python"
        raise UsageError(
            f"--emit triton --triton-backend {backend}: {reasons[0]}",
            hint=f"try --triton-backend {other}, or leave triton out of --emit",
        )


def _stage_config(source: Source, stage: StageConfig, backend: TritonBackend) -> dict[str, Any]:
    rows = rows_limit(source, stage)
    kind = {"cpu": "KIND_CPU", "gpu": "KIND_AUTO" if backend == "python" else "KIND_GPU"}[stage.device]
    config: dict[str, Any] = {
        "name": stage_name(source, stage),
        "backend": backend,
        "max_batch_size": rows,
        "input": [_tensor(source.tensors[name], batched=rows > 0) for name in stage.inputs],
        "output": [_tensor(tensor, batched=rows > 0) for tensor in source.used(stage)],
        "instance_group": {"kind": Symbol(kind), "count": source.workers(stage)},
        "version_policy": {"latest": {"num_versions": 1}},
    }
    if rows:
        config["dynamic_batching"] = {}
    if backend == "onnxruntime":
        threads = {"intra_op_thread_count": source.plan.intra_op_threads, "inter_op_thread_count": 1}
        config["parameters"] = [{"key": key, "value": {"string_value": str(value)}} for key, value in threads.items()]
        if stage.engine is not None and stage.device == "gpu":
            config["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": _tensorrt(stage)}}
    return config


def _tensorrt(stage: StageConfig) -> Message:
    """Return how ONNX Runtime builds the stage's engine on the server, the only place where it is sure to fit."""
    precision = stage.engine.precision if stage.engine else "fp32"
    mode = {"fp16": "FP16", "int8": "INT8"}.get(precision, "FP32")
    return {"name": "tensorrt", "parameters": {"key": "precision_mode", "value": mode}}


def _ensemble_config(source: Source) -> Message:
    plan = source.plan
    outputs = [tensor for tensor in plan.outputs if tensor.element]
    return {
        "name": legal_name(plan.name, TRITON),
        "platform": "ensemble",
        "max_batch_size": 0,
        "input": [_tensor(tensor) for tensor in plan.inputs],
        "output": [_tensor(tensor) for tensor in outputs],
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": stage_name(source, stage),
                    "model_version": -1,
                    "input_map": [{"key": name, "value": name} for name in stage.inputs],
                    "output_map": [{"key": tensor.name, "value": tensor.name} for tensor in source.used(stage)],
                }
                for stage in plan.stages
            ]
        },
    }


def _tensor(tensor: TensorConfig, *, batched: bool = False) -> dict[str, Any]:
    """Return an input or output; Triton has no scalars, and the batch is not among a batched model's dimensions."""
    assert tensor.element is not None
    assert tensor.shape is not None
    sizes = [size if isinstance(size, int) else -1 for size in tensor.shape] or [1]
    kind = "STRING" if tensor.element.is_string else tensor.element.datatype
    return {"name": tensor.name, "data_type": Symbol(f"TYPE_{kind}"), "dims": sizes[1:] if batched else sizes}


def _write_warm_up(source: Source, stage: StageConfig, model: Path) -> dict[str, Any]:
    """Write the sample's inputs of a stage, and return the configuration that runs them before the first request."""
    batched = rows_limit(source, stage) > 0
    inputs: list[Message] = []
    for number, name in enumerate(stage.inputs):
        tensor, value = source.tensors[name], np.asarray(source.values[name])
        value = value[:1] if batched else value
        assert tensor.element is not None
        if not value.size or value.nbytes > MAX_WARM_UP_BYTES:
            return {}
        file = model / "warmup" / f"{number:02d}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encode_raw(value, tensor.element))
        dims = list(value.shape[1:] if batched else value.shape) or [1]
        entry = {"data_type": _tensor(tensor)["data_type"], "dims": dims, "input_data_file": file.name}
        inputs.append({"key": name, "value": entry})
    return {"model_warmup": {"name": "sample", "batch_size": 1 if batched else 0, "inputs": inputs}}


def _write_python(source: Source, stage: StageConfig, version: Path) -> None:
    shutil.copyfile(MODEL, version / "model.py")
    shutil.copytree(RUNTIME, version / "cutset_runtime", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    (version / "plan.json").write_text(source.alone(stage), "utf-8")
    for file in source.files(stage):
        copy = version / file.relative_to(source.package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _write_onnx(stage: StageConfig, version: Path) -> None:
    """Copy the stage's ONNX file; weights beside it keep the name by which it refers to them."""
    copy_model_files(stage.model, version / RENAMED)


def _perf_analyzer(source: Source) -> dict[str, Any]:
    """Return the sample in the words of perf_analyzer's ``--input-data``."""
    found = {}
    for tensor in source.plan.inputs:
        value = np.atleast_1d(np.asarray(source.sample[tensor.name]))
        assert tensor.element is not None
        content = value.ravel().tolist() if tensor.element.is_string else {"b64": _base64(encode_raw(value, tensor.element))}
        found[tensor.name] = {"content": content, "shape": list(value.shape)}
    return found


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode()


def _readme(source: Source, backend: TritonBackend) -> str:
    modules = [library.module.replace("_", "-") for library in source.plan.custom_ops if library.module]
    stages = [
        {
            "model": stage_name(source, stage),
            "index": stage.index,
            "device": stage.device,
            "count": source.workers(stage),
            "rows": rows_limit(source, stage),
        }
        for stage in source.plan.stages
    ]
    model = legal_name(source.plan.name, TRITON)
    words = {"name": source.plan.name, "model": model, "backend": backend, "stages": stages}
    requirements = [requirement(name) for name in ("numpy", "onnxruntime", *modules)]
    return templates().get_template("triton_README.md.j2").render(**words, requirements=requirements)
