"""Put what the GPU stages need into the package: what engines are built from, the engines, and what the plan says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cutset.advisory import advisory
from cutset.codegen import numerics
from cutset.codegen.engines.feedback import BuiltStage, Engineered
from cutset.codegen.engines.ranges import as_json
from cutset.codegen.precision.error import TOLERANCES
from cutset.codegen.runtime.backends.cuda import Gpu
from cutset.codegen.runtime.backends.engine_cache import Builder, EngineCache, ingredients
from cutset.codegen.runtime.engine_config import EngineConfig
from cutset.codegen.split import copy_model_files
from cutset.errors import UsageError
from cutset.graph.model import ModelGraph
from cutset.partitioner.cuda_kernels import cuda_source
from cutset.partitioner.tensorrt_table import TABLE_SOURCE
from cutset.profilers.capability import Oracle
from cutset.profilers.gpu_backend import GpuBackend
from cutset.profilers.inputs import write_npz
from cutset.profilers.segments import Segment, boundary_values
from cutset.profilers.session import Arrays
from cutset.serde import to_builtins

ENGINES = "engines"
_ROUNDING = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})
"""Operators that make a step of eight bits of the least difference before them."""


def deploy(made: Engineered, package: Path, document: dict[str, Any]) -> None:
    """Write the engines of a plan into its package and say so in the plan's document.

    An engine that was built as a trial, by another library or for another GPU than the package's, is not written.

    Args:
        made: The plan with its engines.
        package: The package folder, the plain stages already in it.
        document: The plan as JSON; changed.
    """
    document["engines"] = summary(made)
    if made.backend.name == "onnxruntime-cuda" and any(r.prepared.reduced.precision == "bf16" for r in made.stages):
        raise UsageError(
            "bf16 needs an engine: onnxruntime has no bfloat16 kernels on the CPU, so the parts could not be proven",
            hint="use --precision fp16, or install a library that builds engines: pip install 'cutset[tensorrt-rtx]'",
        )
    builders: dict[str, Builder] = {}
    for ready in made.stages:
        entry = document["stages"][ready.stage.index]
        entry["backend"] = made.backend.name
        runs_plain = made.backend.name == "onnxruntime-cuda" and ready.prepared.model == ready.prepared.plain
        if runs_plain and len(made.plan.stages) == 1:
            continue  # the user's own file, as it is
        model = _copy_models(ready, package, str(entry["model"]))
        if made.backend.name == "onnxruntime-cuda":
            entry["model"] = model
            continue
        entry["engine"] = {
            "backend": made.backend.name,
            "model": model,
            "precision": ready.prepared.reduced.precision,
            "inputs": [as_json(given) for given in ready.prepared.inputs],
        }
        config = EngineConfig.read(entry["engine"], package / model, package / ENGINES)
        with advisory("putting the engine into the package", f"stage {ready.stage.index}"):
            _add_engine(ready, made.backend, config, builders)


def _add_engine(ready: BuiltStage, backend: GpuBackend, config: EngineConfig, builders: dict[str, Builder]) -> None:
    """Write the engine of a stage into the package's cache, if it is one for the package's GPU."""
    if ready.engine is None or ready.report is None or backend.oracle is None or backend.proxy:
        return
    version = ready.report.version
    if version not in builders:
        builders[version] = _builder(backend.oracle, version)
    EngineCache(config.folder).add(
        ready.stage.index, ingredients(config, builders[version]), ready.engine, ready.report.seconds
    )


def store_samples(
    graph: ModelGraph, made: Engineered, package: Path, document: dict[str, Any], sample: Arrays, tolerance: float | None
) -> None:
    """Put beside each stage that becomes an engine what it reads in a run on the sample, and how far the engine may be off.

    The package compares every engine with the stage's ONNX file on it when the engine is first loaded.

    Args:
        graph: The whole model.
        made: The plan with its engines.
        package: The package folder.
        document: The plan as JSON; changed.
        sample: Complete inputs of the model.
        tolerance: Relative tolerance that the user gave the verification; None takes that of the stage's types.
    """
    engines = [ready for ready in made.stages if document["stages"][ready.stage.index].get("engine")]
    read = boundary_values(graph, sample, [Segment(nodes=(), inputs=ready.stage.inputs, outputs=()) for ready in engines])
    for ready in engines:
        entry = document["stages"][ready.stage.index]
        place = Path(entry["model"]).with_suffix(".sample.npz")
        write_npz(package / place, {name: read[name] for name in ready.stage.inputs})
        entry["engine"] |= {"sample": place.as_posix(), "tolerance": _tolerance(graph, ready, tolerance)}


def _tolerance(graph: ModelGraph, ready: BuiltStage, given: float | None) -> float:
    """Return how far the engine of a stage may be from its ONNX file, over an output's largest magnitude."""
    reduced = ready.prepared.reduced
    if reduced.tolerance:
        return reduced.tolerance
    if given is not None:
        return given
    if any(graph.by_name[name].op.op_type in _ROUNDING for name in ready.stage.nodes):
        return TOLERANCES["int8"]
    kinds = (graph.values[name].dtype for name in ready.stage.outputs)
    return max((numerics.TOLERANCES[kind] for kind in kinds if kind in numerics.TOLERANCES), default=0.0)


def summary(made: Engineered) -> dict[str, Any]:
    """Return who runs, who answered, and what was refused, as plan.json holds it."""
    oracle = made.backend.oracle
    return {
        "backend": made.backend.name,
        "answered_by": oracle.title if oracle else cuda_source() if made.backend.name == "onnxruntime-cuda" else TABLE_SOURCE,
        "built": [ready.stage.index for ready in made.stages if ready.engine is not None],
        "deployed": oracle is not None and not made.backend.proxy,
        "stages": [_stage(ready) for ready in made.stages],
        "refusals": {name: {"reason": verdict.reason, "source": verdict.source} for name, verdict in made.refusals.items()},
    }


def _stage(ready: BuiltStage) -> dict[str, Any]:
    """Return what was made of a stage and how far its numbers are from float32, as plan.json holds it."""
    reduced = ready.prepared.reduced
    return {
        "stage": ready.stage.index,
        "precision": reduced.precision,
        "tolerance": reduced.tolerance,
        "refused": ready.prepared.refused,
        "narrowed": ready.prepared.narrowed,
        "modelled_gain": ready.prepared.gain,
        "errors": to_builtins(reduced.errors),
        "reduced_nodes": len(reduced.reduced),
        "clean_ups": list(ready.prepared.cleaned),
        "kept_in_fp32": list(reduced.kept),
        "beyond_range": list(reduced.beyond),
        "compared": to_builtins(ready.compared),
    }


def _copy_models(ready: BuiltStage, package: Path, plain: str) -> str:
    """Put the cleaned stage and the file its engine is built from into the package; return the place of the latter."""
    prepared = ready.prepared
    own = package / plain
    if prepared.cleaned and prepared.plain.name == own.name:
        copy_model_files(prepared.plain, own)
    target = own.with_name(prepared.model.name)
    if target != own:
        copy_model_files(prepared.model, target)
    return target.relative_to(package).as_posix()


def _builder(oracle: Oracle, version: str) -> Builder:
    """Return what the engines are for: any GPU of a compute capability, or the one in this machine."""
    if oracle.compute_capability:
        return Builder(backend=oracle.backend, version=version, compute_capability=oracle.compute_capability)
    gpu = Gpu()
    return Builder(
        backend=oracle.backend, version=version, compute_capability=gpu.compute_capability, gpu=gpu.name, driver=gpu.driver
    )
