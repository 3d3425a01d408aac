"""What a server says about itself and its model: the GET side of the Open Inference Protocol v2."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from .config import PlanConfig, TensorConfig
from .protocol import VERSION
from .statistics import PipelineStats

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
PLATFORM = "cutset_pipeline"
MOST_PROPERTY = 1 << 16
MOST_PROPERTIES = 1 << 19
OPTIONAL = "optional_inputs"
"""Name of the property that lists the inputs with a default, as JSON."""
_NS = 1e9


def server_metadata() -> dict[str, Any]:
    """Return the server's own entry."""
    return {"name": "cutset", "version": VERSION, "extensions": list(EXTENSIONS)}


def model_metadata(name: str, inputs: Sequence[TensorConfig], outputs: Sequence[TensorConfig]) -> dict[str, Any]:
    """Return the model's signature; a size of -1 is any, and the protocol's only word for an unknown rank too."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [_signature(tensor) for tensor in inputs],
        "outputs": [_signature(tensor) for tensor in outputs],
    }


def with_bounds(document: dict[str, Any], plan: PlanConfig) -> dict[str, Any]:
    """Return the signature over HTTP: with the least shape of inputs that have one, and what the engines take.

    The protocol's messages of gRPC have no place for them; `model_config` has, for both.
    """
    least = {tensor.name: list(tensor.least) for tensor in plan.inputs if tensor.least is not None}
    inputs = [
        {**entry, "parameters": {"least_shape": least[entry["name"]]}} if entry["name"] in least else entry
        for entry in document["inputs"]
    ]
    engines = engine_ranges(plan)
    return {**document, "inputs": inputs} | ({"parameters": {"engines": engines}} if engines else {})


def engine_ranges(plan: PlanConfig) -> list[dict[str, Any]]:
    """Return what each engine takes: the least, usual and largest shape of every input. Other shapes run in onnxruntime."""
    return [
        {
            "stage": stage.index,
            "backend": stage.backend,
            "inputs": {given.name: [list(sizes) for sizes in given.shapes] for given in stage.engine.inputs},
        }
        for stage in plan.stages
        if stage.engine is not None
    ]


def model_properties(plan: PlanConfig) -> dict[str, dict[str, str]]:
    """Return what the model's file says about itself as the protocol's ``properties``, and which inputs may be left out.

    Entries of more than `MOST_PROPERTY` characters, and those beyond `MOST_PROPERTIES` in all, are in plan.json only: clients
    of gRPC refuse messages over 4 MiB.
    """
    found: dict[str, str] = {}
    left = MOST_PROPERTIES
    for key, value in plan.metadata.items():
        size = len(key) + len(value)
        if size <= min(left, MOST_PROPERTY):
            found[key] = value
            left -= size
    optional = [tensor.name for tensor in plan.inputs if tensor.default is not None]
    if optional:
        found[OPTIONAL] = json.dumps(optional)
    return {"properties": found} if found else {}


def model_config(plan: PlanConfig, inputs: Sequence[TensorConfig], outputs: Sequence[TensorConfig]) -> dict[str, Any]:
    """Return the model's configuration in Triton's words; clients and load generators read it.

    Triton's parameters are texts: ``least_shapes`` and ``engines`` hold JSON, see `with_bounds`.
    """
    texts: dict[str, object] = {"decision": plan.decision, "stages": len(plan.stages), "tokens": plan.tokens}
    least = {tensor.name: tensor.least for tensor in inputs if tensor.least is not None}
    for key, value in (("least_shapes", least), ("engines", engine_ranges(plan))):
        if value:
            texts[key] = json.dumps(value)
    return {
        "name": plan.name,
        "platform": PLATFORM,
        "backend": "cutset",
        "max_batch_size": 0,
        "input": [_triton_tensor(tensor) for tensor in inputs],
        "output": [_triton_tensor(tensor) for tensor in outputs],
        "parameters": {key: {"string_value": str(value)} for key, value in texts.items()},
    }


def model_statistics(name: str, stats: PipelineStats) -> dict[str, Any]:
    """Return the counters in Triton's layout, with the pipeline's own per-stage numbers beside them.

    Load generators look for each of Triton's times; copies between host and device are part of a stage's here.
    """
    count = stats.completed
    times_s = {
        "success": stats.latency_sum_s,
        "queue": sum(stage.waited.mean_s * stage.count for stage in stats.stages),
        "compute_input": 0.0,
        "compute_infer": sum(stage.busy_s for stage in stats.stages),
        "compute_output": 0.0,
    }
    times = {name: {"count": count, "ns": int(seconds * _NS)} for name, seconds in times_s.items()}
    entry = {
        "name": name,
        "version": VERSION,
        "inference_count": count,
        "execution_count": count,
        "inference_stats": times | {"fail": {"count": stats.failed, "ns": 0}},
        "pipeline": dataclasses.asdict(stats),
    }
    return {"model_stats": [entry]}


def repository_index(name: str, *, ready: bool) -> list[dict[str, Any]]:
    """Return the list of the one model there is."""
    state = {"state": "READY"} if ready else {"state": "UNAVAILABLE", "reason": "closing"}
    return [{"name": name, "version": VERSION, **state}]


def _sizes(tensor: TensorConfig) -> list[int]:
    return [-1] if tensor.shape is None else [size if isinstance(size, int) else -1 for size in tensor.shape]


def _datatype(tensor: TensorConfig) -> str:
    return tensor.element.datatype if tensor.element else tensor.dtype


def _signature(tensor: TensorConfig) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": _datatype(tensor), "shape": _sizes(tensor)}


def _triton_tensor(tensor: TensorConfig) -> dict[str, Any]:
    kind = "STRING" if tensor.dtype == "string" else _datatype(tensor)
    entry = {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": _sizes(tensor)}
    return entry if tensor.default is None else entry | {"optional": True}
