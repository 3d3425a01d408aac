"""Requests of no rows, and of sizes that contradict each other: refused or answered, and the server goes on serving.

The models hold kernels of onnxruntime that end the process on an empty tensor: LSTM and GRU abort, Einsum divides by zero.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper

from tests.e2e.harness import QUICK, Alone, onnx_file, package_of

F = TensorProto.FLOAT
GOOD = {"e": (2, 3, 4), "l": (3, 2, 4), "g": (3, 2, 4), "free": (2, 4), "one": (2, 4), "other": (2, 4)}
"""The shape of each input that every request has unless it says otherwise."""


def kernels(folder: Path) -> Path:
    """Write a model whose inputs are for an Einsum, an LSTM, a GRU, a Relu and an Add; each has a free number of rows."""
    rng = np.random.default_rng(0)
    weights = {
        "wl": rng.normal(size=(1, 8, 4)), "rl": rng.normal(size=(1, 8, 2)),
        "wg": rng.normal(size=(1, 6, 4)), "rg": rng.normal(size=(1, 6, 2)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Einsum", ["e", "e"], ["e_out"], name="einsum", equation="bid,bjd->bij"),
        helper.make_node("LSTM", ["l", "wl", "rl"], ["", "l_out"], name="lstm", hidden_size=2),
        helper.make_node("GRU", ["g", "wg", "rg"], ["", "g_out"], name="gru", hidden_size=2),
        helper.make_node("Relu", ["free"], ["free_out"], name="relu"),
        helper.make_node("Add", ["one", "other"], ["sum"], name="add"),
    ]
    inputs = [
        ("e", F, ["be", 3, 4]), ("l", F, [3, "bl", 4]), ("g", F, [3, "bg", 4]), ("free", F, ["bf", 4]), ("one", F, ["bs", 4]),
        ("other", F, ["bs", 4]),
    ]  # fmt: skip
    outputs = [
        ("e_out", F, ["be", 3, 3]), ("l_out", F, [1, "bl", 2]), ("g_out", F, [1, "bg", 2]), ("free_out", F, ["bf", 4]),
        ("sum", F, ["bs", 4]),
    ]  # fmt: skip
    floats = {name: array.astype(np.float32) for name, array in weights.items()}
    model = onnx_file(folder / "kernels.onnx", nodes, inputs, outputs, weights=floats)
    np.savez(folder / "kernels.npz", **arrays(GOOD))
    return model


def arrays(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng(1).normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server process, and how both protocols answer it."""

    http: triton.InferenceServerClient
    grpc: Any
    name: str
    process: Any

    def ask(self, protocol: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        client, module = (self.http, triton) if protocol == "http" else (self.grpc, pytest.importorskip("tritonclient.grpc"))
        tensors = []
        for key, array in inputs.items():
            tensors.append(module.InferInput(key, list(array.shape), "FP32"))
            tensors[-1].set_data_from_numpy(array)
        reply = client.infer(self.name, tensors)
        names = [entry["name"] for entry in self.http.get_model_metadata(self.name)["outputs"]]
        return {name: reply.as_numpy(name) for name in names}

    def refusal(self, protocol: str, inputs: dict[str, np.ndarray]) -> tuple[str, str]:
        """Return the status and the words of a request that fails."""
        try:
            self.ask(protocol, inputs)
        except Exception as error:  # each client has a kind of its own
            return str(error.status()), error.message()
        return "answered", ""


@pytest.fixture(scope="module")
def serve(tmp_path_factory, without_cutset, long_cutset) -> Iterator[Callable[..., Served]]:
    """Return a function that partitions a model and serves it over both protocols."""
    with contextlib.ExitStack() as stack:

        def start(model: Path, *words: str) -> Served:
            out = tmp_path_factory.mktemp("out") / "package"
            done = long_cutset.partition(model, out, *words)
            assert done.code == 0, done.err
            alone = Alone(without_cutset, tmp_path_factory.mktemp("elsewhere"))
            process, url = stack.enter_context(alone.served(out / "serving", "--grpc-port", "0"))
            assert process.stdout is not None
            address = process.stdout.readline().removeprefix("grpc: ").strip()
            netloc = url.split("/")[2]
            client = stack.enter_context(contextlib.closing(triton.InferenceServerClient(netloc)))
            module = pytest.importorskip("tritonclient.grpc")
            grpc = stack.enter_context(module.InferenceServerClient(address))
            return Served(http=client, grpc=grpc, name=model.stem, process=process)

        yield start


@pytest.fixture(scope="module")
def kernel_server(serve, tmp_path_factory) -> Served:
    return serve(kernels(tmp_path_factory.mktemp("kernels")))


STATUS = {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT"}
ERROR = {"http": "500", "grpc": "StatusCode.INTERNAL"}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(("name", "axis"), [("e", 0), ("l", 1), ("g", 1)])
def test_no_rows_where_the_kernel_ends_the_process(kernel_server, protocol, name, axis):
    shape = tuple(0 if at == axis else size for at, size in enumerate(GOOD[name]))
    status, words = kernel_server.refusal(protocol, arrays({**GOOD, name: shape}))
    assert status == STATUS[protocol]
    assert f"input '{name}': got shape {list(shape)}, expected float32 of shape" in words
    assert f"b{name} >= 1" in words
    assert kernel_server.ask(protocol, arrays(GOOD))["free_out"].shape == (2, 4)
    assert kernel_server.process.poll() is None


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_no_rows_where_the_kernel_takes_them(kernel_server, protocol):
    found = kernel_server.ask(protocol, arrays({**GOOD, "free": (0, 4), "one": (0, 4), "other": (0, 4)}))
    assert (found["free_out"].shape, found["sum"].shape) == ((0, 4), (0, 4))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_sizes_that_contradict_each_other(kernel_server, protocol):
    status, words = kernel_server.refusal(protocol, arrays({**GOOD, "other": (3, 4)}))
    assert status == STATUS[protocol]
    assert "input 'other': got size 3 for 'bs' on dimension 0, expected 2, which input 'one' has on dimension 0" in words
    assert kernel_server.ask(protocol, arrays({**GOOD, "one": (3, 4), "other": (3, 4)}))["sum"].shape == (3, 4)


def test_the_least_sizes_are_in_the_metadata(kernel_server):
    described = {entry["name"]: entry for entry in kernel_server.http.get_model_metadata(kernel_server.name)["inputs"]}
    assert {name: entry["parameters"]["least_shape"] for name, entry in described.items() if "parameters" in entry} == {
        "e": [1, 0, 0], "l": [0, 1, 0], "g": [0, 1, 0],
    }  # fmt: skip
    texts = kernel_server.http.get_model_config(kernel_server.name)["parameters"]
    assert json.loads(texts["least_shapes"]["string_value"]) == {"e": [1, 0, 0], "l": [0, 1, 0], "g": [0, 1, 0]}
    config = kernel_server.grpc.get_model_config(kernel_server.name).config
    assert config.parameters["least_shapes"].string_value == texts["least_shapes"]["string_value"]
    assert [entry.name for entry in kernel_server.grpc.get_model_metadata(kernel_server.name).inputs] == list(GOOD)


def detections(folder: Path, op: str) -> Path:
    """Write a model that keeps the rows whose score is above a threshold and runs an operator on the rows that are left."""
    head = (
        helper.make_node("Einsum", ["rows", "rows"], ["y"], name="head", equation="bid,bjd->bij")
        if op == "Einsum"
        else helper.make_node(op, ["rows"], ["y"], name="head")
    )
    nodes = [
        helper.make_node("Greater", ["scores", "limit"], ["above"], name="greater"),
        helper.make_node("NonZero", ["above"], ["where"], name="where"),
        helper.make_node("Squeeze", ["where", "axis"], ["picked"], name="squeeze"),
        helper.make_node("Gather", ["x", "picked"], ["rows"], name="pick"),
        head,
    ]
    weights = {"axis": np.array([0])}
    inputs = [("x", F, [4, 3, 3]), ("scores", F, [4]), ("limit", F, [])]
    model = onnx_file(folder / f"{op.lower()}.onnx", nodes, inputs, [("y", F, ["n", 3, 3])], weights=weights)
    np.savez(model.with_suffix(".npz"), **found(0.5))
    return model


def found(limit: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = np.array([0.1, 0.9, 0.8, 0.2], np.float32)
    return {"x": rng.normal(size=(4, 3, 3)).astype(np.float32), "scores": scores, "limit": np.float32(limit)}


@pytest.mark.parametrize("op", ["Einsum", "Sigmoid"])
def test_nothing_is_found_in_the_middle(serve, tmp_path, op):
    """A stage behind a data-dependent number of rows gets none: its request alone fails, or is answered with no rows."""
    words = ("--pin", "head=gpu", "--pin", "pick=cpu", "--gpu-backend", "onnxruntime-cuda", *QUICK)
    server = serve(detections(tmp_path, op), *words)
    for protocol in ("http", "grpc"):
        inputs = {name: np.asarray(array) for name, array in found(2.0).items()}
        if op == "Sigmoid":
            assert server.ask(protocol, inputs)["y"].shape == (0, 3, 3)
        else:
            status, said = server.refusal(protocol, inputs)
            assert (status, "below shape [1, 0, 0] of 'rows': not run" in said) == (ERROR[protocol], True), said
        kept = server.ask(protocol, {name: np.asarray(array) for name, array in found(0.5).items()})["y"]
        assert kept.shape == (2, 3, 3)
    assert server.process.poll() is None


def test_the_command_says_what_is_refused(cutset, tmp_path):
    model = detections(tmp_path, "Einsum")
    words = ("--pin", "head=gpu", "--pin", "pick=cpu", "--gpu-backend", "onnxruntime-cuda", "--target", "t4", *QUICK)
    done = cutset("partition", model, "-o", tmp_path / "out", *words)
    assert done.code == 0, done.err
    assert "refused when smaller: stage 1 takes at least 1 on dimension 0 of `rows`: below that it crashed" in done.out
    plan = json.loads((package_of(tmp_path / "out" / "serving") / "plan.json").read_text())
    assert plan["stages"][1]["least"] == {"rows": [1, 0, 0]}
