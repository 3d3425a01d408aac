"""Packages of real ONNX stages, and a check that no test leaves a worker behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from cutset.codegen.runtime.config import PlanConfig, read_plan
from cutset.codegen.runtime.dtypes import Value

ELEM = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}
Stage = tuple[str, list[NodeProto], list[str], list[str]]
Spec = tuple[str, list[int | str | None] | None]


class Package:
    """Writes a package folder and remembers its plan."""

    def __init__(self, folder: Path, tensors: Mapping[str, Spec], stages: list[Stage], **plan: Any) -> None:
        self.folder = folder
        (folder / "stages").mkdir(parents=True)
        entries = []
        for index, (device, nodes, inputs, outputs) in enumerate(stages):
            graph = helper.make_graph(
                nodes, "stage", [_info(n, tensors[n]) for n in inputs], [_info(n, tensors[n]) for n in outputs]
            )
            path = folder / f"stages/{index:02}.onnx"
            onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
            backend = "onnxruntime-cpu" if device == "cpu" else "onnxruntime-cuda"
            entries.append(
                {
                    "index": index,
                    "device": device,
                    "backend": backend,
                    "model": f"stages/{index:02}.onnx",
                    "inputs": inputs,
                    "outputs": outputs,
                    "service_s": 0.001,
                }
            )
        sides = {side: [_tensor(n, tensors[n]) for n in plan.pop(side)] for side in ("inputs", "outputs")}
        self.document: dict[str, Any] = {
            "schema": "cutset.plan/1",
            "name": "m",
            "decision": "split",
            "cpu_workers": 2,
            "intra_op_threads": 1,
            "tokens": 4,
            "queue_limit": 16,
            "custom_ops": [],
            **sides,
            "stages": entries,
            **plan,
        }
        self.write()

    def add(self, index: int, code: str, *, inputs: list[str], outputs: list[str], execution: str) -> None:
        """Append a stage that is Python code."""
        entry = {"index": index, "device": "cpu", "backend": "python", "model": f"stages/{index:02}.py", "service_s": 0.001}
        (self.folder / entry["model"]).write_text(code)
        self.document["stages"].append(entry | {"inputs": inputs, "outputs": outputs, "execution": execution})
        self.write()

    def write(self) -> None:
        (self.folder / "plan.json").write_text(json.dumps(self.document))

    def plan(self) -> PlanConfig:
        return read_plan(self.folder)


class Gate:
    """A stage that copies its input to its output when it is let; a real one cannot be held for a test."""

    substitution = None

    def __init__(self, source: str, target: str, device: str = "cpu") -> None:
        self.device = device
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.seen: list[Value] = []
        self._source, self._target = source, target

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        self.seen.append(feeds[self._source])
        self.entered.release()
        assert self.open.wait(30)
        return {self._target: feeds[self._source]}

    def close(self) -> None:
        self.open.set()


def _info(name: str, spec: Spec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEM[spec[0]], spec[1])


def _tensor(name: str, spec: Spec) -> dict[str, Any]:
    return {"name": name, "dtype": spec[0], "shape": spec[1]}


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., Package]:
    count = iter(range(1000))
    return lambda tensors, stages, **plan: Package(tmp_path / f"p{next(count)}", tensors, stages, **plan)


@pytest.fixture
def chain(package: Callable[..., Package]) -> Callable[..., Package]:
    """k stages: t1 = t0 + 1, t2 = t1 + 1, ... on alternating devices if asked."""

    def build(k: int = 3, devices: tuple[str, ...] = ("cpu",), **plan: Any) -> Package:
        tensors: dict[str, Spec] = {f"t{i}": ("float32", ["n"]) for i in range(k + 1)}
        one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
        stages: list[Stage] = [
            (
                devices[i % len(devices)],
                [
                    helper.make_node("Constant", [], ["one"], value=one),
                    helper.make_node("Add", [f"t{i}", "one"], [f"t{i + 1}"]),
                ],
                [f"t{i}"],
                [f"t{i + 1}"],
            )
            for i in range(k)
        ]
        return package(tensors, stages, inputs=["t0"], outputs=[f"t{k}"], **plan)

    return build


@pytest.fixture
def gate() -> type[Gate]:
    return Gate


@pytest.fixture(autouse=True)
def _no_worker_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    new = set(threading.enumerate()) - before
    assert [thread.name for thread in new if thread.name.startswith(("cutset-", "asyncio_"))] == []
