"""Typed reading of plan.json: everything the runtime relies on is checked here, before a model is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from .defaults import read_defaults
from .dtypes import ELEMENT_TYPES, ElementType, Value
from .engine_config import EngineConfig
from .errors import ConfigError

SCHEMA = "cutset.plan/1"
CUSTOM_OP_MODULES = ("onnxruntime_extensions",)
"""The only modules a plan may name: a plan is data and must not be able to import what it likes."""
_DEVICES = ("cpu", "gpu")
_DECISIONS = ("split", "unsplit-cpu", "unsplit-gpu")
_EXECUTIONS = ("thread", "process")
_SIZES = {"cpu_workers": 1, "intra_op_threads": 1, "tokens": 1, "queue_limit": 0}  # name -> smallest value
KNOBS = (*_SIZES, "max_batch", "max_delay_s", "stage_timeout_s")
"""What a user may set differently from the plan when a package is loaded."""
_LONGEST_DELAY_S = 10.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorConfig:
    """One input or output of the model.

    Args:
        name: The tensor's name in the model; any characters.
        dtype: Element type as in `ELEMENT_TYPES`, or a non-tensor ONNX type such as ``"seq(map(int64,float32))"``.
        shape: Sizes; a string is a symbolic dimension, None an unknown one. None for the whole is unknown rank.
        least: Least size of each dimension, found when the package was written: kernels of the model end the process on less.
            None where every size is allowed.
        default: What a request that leaves the input out gets; None for an input that must be given.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    least: tuple[int, ...] | None = None
    default: Value | None = field(default=None, compare=False, repr=False)

    @property
    def element(self) -> ElementType | None:
        """The element type, or None where the value is no tensor."""
        return ELEMENT_TYPES.get(self.dtype)


class Wanted(Flag):
    """The places from which an output of a stage is read; no bit means that nobody reads the output."""

    DEVICE = auto()
    """In the memory of the GPU: a later stage there reads it."""
    HOST = auto()
    """On the host: a later stage on the CPU reads it."""
    RESULT = auto()
    """On the host, for as long as the receiver likes: it is an output of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage: an ONNX file with exactly these inputs and outputs.

    Args:
        index: Position in the order of execution, from 0.
        device: ``"cpu"`` or ``"gpu"``, as planned.
        backend: Name of the backend to run it with.
        model: The ONNX file.
        inputs: Names of the tensors it takes.
        outputs: Names of the tensors it makes.
        service_s: Seconds of one run, as predicted or measured at compile time.
        batchable: Whether compiling proved that rows of several requests can be run as one.
        rows_axis: Name of the free first dimension of a batchable stage; empty where its size cannot be fixed by name.
        execution: ``"thread"``, or ``"process"`` for a stage that would hold Python's interpreter lock.
        engine: How to come by its engine, None for a stage that needs none.
        keeps_dropout: Whether it has a Dropout that draws, which ONNX Runtime would take out.
        wanted: Where each output is taken, for a stage on a GPU; one that is not in it is taken as a `RESULT`.
        least: Least size of each dimension of an input on less of which the stage's kernels end the process, by input.
    """

    index: int
    device: str
    backend: str
    model: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    service_s: float
    batchable: bool = False
    rows_axis: str = ""
    execution: str = "thread"
    engine: EngineConfig | None = None
    keeps_dropout: bool = False
    wanted: Mapping[str, Wanted] = field(default_factory=dict)
    least: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomOps:
    """A custom-operator library: a known Python module, or a shared library inside the package. One of them is None."""

    module: str | None
    file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """What the runtime needs of plan.json.

    Args:
        name: Name of the served model.
        inputs: The model's inputs.
        outputs: The model's outputs.
        stages: The stages in order of execution.
        decision: ``"split"``, ``"unsplit-cpu"`` or ``"unsplit-gpu"``.
        cpu_workers: Threads of the CPU pool.
        intra_op_threads: Threads ONNX Runtime uses inside one run on the CPU.
        tokens: Most requests inside the pipeline at once.
        queue_limit: Most requests waiting outside it.
        custom_ops: Libraries every stage needs registered.
        max_batch: Most rows run as one in a batchable stage; None leaves it to the device.
        max_delay_s: Seconds a batchable stage waits for more rows than there are.
        stage_timeout_s: Seconds after which a run of a stage counts as hung; 0 for no limit, None for a limit of each stage.
        planned_rows: Most requests that share a run of a stage in the plan, which `tokens` already counts.
        metadata: What the model's file says about itself; any text.
    """

    name: str
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    stages: tuple[StageConfig, ...]
    decision: str
    cpu_workers: int
    intra_op_threads: int
    tokens: int
    queue_limit: int
    custom_ops: tuple[CustomOps, ...]
    max_batch: int | None = None
    max_delay_s: float = 0.0
    stage_timeout_s: float | None = None
    planned_rows: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)

    def override(self, knobs: Mapping[str, float]) -> PlanConfig:
        """Return the plan with other sizes.

        Args:
            knobs: New values of some of `KNOBS`.

        Raises:
            ConfigError: If a name is unknown or a value too small.
        """
        where = "Pipeline.load"
        for name, value in knobs.items():
            if name not in KNOBS:
                raise ConfigError(f"unknown setting {name!r}", where=where, hint=f"known: {', '.join(KNOBS)}")
            if name in _SIZES:
                _size({name: value}, name, where)
        checked = {**_batching(knobs, where), "stage_timeout_s": _stage_timeout_s(knobs, where)}
        return replace(self, **{**dict(knobs), **{name: value for name, value in checked.items() if name in knobs}})


def read_plan(folder: Path) -> PlanConfig:
    """Return the checked plan of a package folder.

    Raises:
        ConfigError: If plan.json is missing, is not JSON, or describes something that cannot run.
    """
    path = folder / "plan.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the plan: {error.strerror}", where=str(path), hint="give the folder that holds plan.json"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the plan is not JSON: {error}", where=str(path), hint="compile the package again") from error
    return parse_plan(document, folder)


def parse_plan(document: object, folder: Path) -> PlanConfig:
    """Return the plan in a decoded plan.json; relative paths are taken from `folder`.

    Raises:
        ConfigError: As `read_plan`.
    """
    top = _object(document, "plan.json")
    if top.get("schema") != SCHEMA:
        raise ConfigError(
            f"the schema is {top.get('schema')!r}, expected {SCHEMA!r}",
            where="plan.json",
            hint="compile the package again with a matching version",
        )
    plan = PlanConfig(
        name=_name(top),
        inputs=_with_defaults(_tensors(top, "inputs"), top, folder),
        outputs=_tensors(top, "outputs"),
        stages=tuple(_stage(item, position, folder) for position, item in enumerate(_get(top, "stages", list, "plan.json"))),
        decision=_choice(top, "decision", _DECISIONS, "plan.json"),
        custom_ops=tuple(_custom_ops(item, position, folder) for position, item in enumerate(top.get("custom_ops") or [])),
        **{size: _size(top, size, "plan.json") for size in _SIZES},
        planned_rows=_planned_rows(top),
        metadata=_metadata(top),
        **_batching(top, "plan.json"),
        stage_timeout_s=_stage_timeout_s(top, "plan.json"),
    )
    _check_flow(plan)
    return plan


def _with_defaults(inputs: tuple[TensorConfig, ...], top: Mapping[str, Any], folder: Path) -> tuple[TensorConfig, ...]:
    optional = {tensor.name for tensor, entry in zip(inputs, top["inputs"], strict=True) if entry.get("optional")}
    defaults = read_defaults(folder) if optional else {}
    return tuple(replace(tensor, default=defaults.get(tensor.name)) if tensor.name in optional else tensor for tensor in inputs)


def _metadata(top: Mapping[str, Any]) -> dict[str, str]:
    found = _object(top.get("metadata", {}), "plan.json: metadata")
    if not all(isinstance(value, str) for value in found.values()):
        raise ConfigError("an entry is no text", where="plan.json: metadata", hint="compile the package again")
    return found


def _planned_rows(top: Mapping[str, Any]) -> int:
    where = "plan.json: steps"
    steps = (_object(step, where) for step in _get({"steps": [], **top}, "steps", list, where))
    return max((_get({"rows": 1, **step}, "rows", int, where) for step in steps), default=1)


def _check_flow(plan: PlanConfig) -> None:
    """Check that every tensor exists before it is used and is made once."""
    if not plan.stages:
        raise ConfigError("the plan has no stage", where="plan.json: stages")
    known = {tensor.name for tensor in plan.inputs}
    for stage in plan.stages:
        where = f"plan.json: stages[{stage.index}]"
        missing = [name for name in stage.inputs if name not in known]
        if missing:
            raise ConfigError(
                f"input {missing[0]!r} is made by no earlier stage and is no model input",
                where=where,
                hint="stages run in index order",
            )
        again = [name for name in stage.outputs if name in known]
        if again:
            raise ConfigError(f"output {again[0]!r} exists already", where=where, hint="each tensor is made by one stage")
        known.update(stage.outputs)
    for tensor in plan.outputs:
        if tensor.name not in known:
            raise ConfigError(f"the model output {tensor.name!r} is made by no stage", where="plan.json: outputs")


def _stage(item: object, position: int, folder: Path) -> StageConfig:
    where = f"plan.json: stages[{position}]"
    entry = _object(item, where)
    index = _get(entry, "index", int, where)
    if index != position:
        raise ConfigError(f"the index is {index}, expected {position}", where=where, hint="stages are listed in index order")
    outputs = _names(entry, "outputs", where)
    if not outputs:
        raise ConfigError("the stage makes nothing", where=where)
    service_s = float(_get(entry, "service_s", (int, float), where))
    if not 0 <= service_s < float("inf"):
        raise ConfigError(f"service_s is {service_s}, expected seconds", where=where)
    batching = _object(entry.get("batching", {}), where)
    inputs = _names(entry, "inputs", where)
    least = {
        name: _least(sizes, f"{where}.least")
        for name, sizes in _object(entry.get("least", {}), where).items()
        if name in inputs
    }
    return StageConfig(
        index=index,
        device=_choice(entry, "device", _DEVICES, where),
        backend=_get(entry, "backend", str, where),
        model=_inside(_get(entry, "model", str, where), folder, where),
        inputs=inputs,
        outputs=outputs,
        service_s=service_s,
        batchable=bool(batching.get("proven", False)),
        rows_axis=_get({"axis": "", **batching}, "axis", str, f"{where}.batching"),
        execution=_choice({"execution": "thread", **entry}, "execution", _EXECUTIONS, where),
        keeps_dropout=bool(entry.get("keeps_dropout", False)),
        engine=_engine(entry["engine"], folder, f"{where}.engine") if entry.get("engine") else None,
        least=least,
    )


def _engine(item: object, folder: Path, where: str) -> EngineConfig:
    entry = _object(item, where)
    model = _inside(_get(entry, "model", str, where), folder, where)
    sample = _inside(_get(entry, "sample", str, where), folder, where) if entry.get("sample") else None
    try:
        return EngineConfig.read(entry, model, folder / "engines", sample)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"this is no engine: {error!r}", where=where, hint="compile the package again") from error


def _custom_ops(item: object, position: int, folder: Path) -> CustomOps:
    where = f"plan.json: custom_ops[{position}]"
    entry = _object(item, where)
    if set(entry) == {"module"}:
        return CustomOps(module=_choice(entry, "module", CUSTOM_OP_MODULES, where), file=None)
    if set(entry) == {"file"}:
        return CustomOps(module=None, file=_inside(_get(entry, "file", str, where), folder, where))
    raise ConfigError("a custom-operator entry has exactly one of `module` and `file`", where=where)


def _tensors(top: Mapping[str, Any], key: str) -> tuple[TensorConfig, ...]:
    tensors = tuple(
        _tensor(item, f"plan.json: {key}[{position}]") for position, item in enumerate(_get(top, key, list, "plan.json"))
    )
    _unique([tensor.name for tensor in tensors], f"plan.json: {key}")
    return tensors


def _tensor(item: object, where: str) -> TensorConfig:
    entry = _object(item, where)
    dtype = _get(entry, "dtype", str, where)
    if dtype not in ELEMENT_TYPES and "(" not in dtype:
        raise ConfigError(f"unknown element type {dtype!r}", where=where, hint=f"known: {', '.join(ELEMENT_TYPES)}")
    shape = entry.get("shape")
    if shape is not None:
        shape = tuple(_get(entry, "shape", list, where))
        bad = [size for size in shape if not (size is None or isinstance(size, str) or (type(size) is int and size >= 0))]
        if bad:
            raise ConfigError(f"{bad[0]!r} is no dimension", where=where, hint="a size, a symbol, or null")
    least = None if entry.get("least") is None else _least(entry["least"], where)
    if least is not None and (shape is None or len(least) != len(shape)):
        raise ConfigError("`least` has another rank than `shape`", where=where, hint="compile the package again")
    return TensorConfig(name=_get(entry, "name", str, where), dtype=dtype, shape=shape, least=least)


def _least(sizes: object, where: str) -> tuple[int, ...]:
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ConfigError(f"`least` is {sizes!r}, expected sizes", where=where, hint="compile the package again")
    return tuple(sizes)


def _name(top: Mapping[str, Any]) -> str:
    name = _get(top, "name", str, "plan.json")
    if not name or "/" in name or not name.isprintable():
        raise ConfigError(
            f"{name!r} cannot be a served model's name", where="plan.json: name", hint="it becomes one segment of a URL"
        )
    return name


def _names(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    names = _get(entry, key, list, where)
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"`{key}` must be a list of tensor names", where=where)
    _unique(names, f"{where}.{key}")
    return tuple(names)


def _unique(names: list[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{twice[0]!r} is listed twice", where=where)


def _size(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = _get(entry, key, int, where)
    if value < _SIZES[key]:
        raise ConfigError(f"`{key}` is {value}, expected at least {_SIZES[key]}", where=where)
    return value


def _batching(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the two knobs of batching, which a plan may leave out."""
    max_batch = None if entry.get("max_batch") is None else _get(entry, "max_batch", int, where)
    delay_s = float(_get({"max_delay_s": 0.0, **entry}, "max_delay_s", (int, float), where))
    if max_batch is not None and max_batch < 1:
        raise ConfigError(f"`max_batch` is {max_batch}, expected at least 1", where=where)
    if not 0 <= delay_s < _LONGEST_DELAY_S:
        raise ConfigError(f"`max_delay_s` is {delay_s}, expected seconds from 0 to {_LONGEST_DELAY_S}", where=where)
    return {"max_batch": max_batch, "max_delay_s": delay_s}


def _stage_timeout_s(entry: Mapping[str, Any], where: str) -> float | None:
    if entry.get("stage_timeout_s") is None:
        return None
    limit_s = float(_get(entry, "stage_timeout_s", (int, float), where))
    if not 0 <= limit_s < float("inf"):
        raise ConfigError(f"`stage_timeout_s` is {limit_s}, expected seconds, or 0 for no limit", where=where)
    return limit_s


def _choice(entry: Mapping[str, Any], key: str, choices: tuple[str, ...], where: str) -> str:
    value = _get(entry, key, str, where)
    if value not in choices:
        raise ConfigError(f"`{key}` is {value!r}", where=where, hint=f"expected one of: {', '.join(choices)}")
    return value


def _inside(relative: str, folder: Path, where: str) -> Path:
    """Return the file, refusing a path that leaves the package."""
    path = folder / PurePosixPath(relative)
    if "\0" in relative or not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"the path {relative!r} leaves the package", where=where)
    if not path.is_file():
        raise ConfigError(f"there is no file {relative!r} in the package", where=where, hint="compile the package again")
    return path


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"expected an object, got {type(value).__name__}", where=where)
    return value


def _get(entry: Mapping[str, Any], key: str, kind: type[_T] | tuple[type[_T], ...], where: str) -> _T:
    if key not in entry:
        raise ConfigError(f"`{key}` is missing", where=where)
    value = entry[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = kind.__name__ if isinstance(kind, type) else " or ".join(one.__name__ for one in kind)
        raise ConfigError(f"`{key}` is {value!r}, expected {wanted}", where=where)
    return value
