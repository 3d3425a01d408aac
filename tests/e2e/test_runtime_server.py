"""The HTTP server on a real socket, driven by Triton's own client and by hostile bodies."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from cutset.codegen.runtime import ConfigError, Pipeline
from cutset.codegen.runtime.config import read_plan
from cutset.codegen.runtime.dtypes import Value
from cutset.codegen.runtime.launcher import Server
from cutset.codegen.runtime.settings import ServerSettings

NAME = "my model"
QUOTED = "my%20model"
TENSORS = {
    "x": (TensorProto.FLOAT, "float32", ["n", 4]),
    "doubled": (TensorProto.FLOAT, "float32", ["n", 4]),
    "half": (TensorProto.FLOAT16, "float16", ["n", 4]),
    "s": (TensorProto.STRING, "string", [None]),
    "i": (TensorProto.INT64, "int64", []),
    "picked": (TensorProto.FLOAT, "float32", [4]),
}
STAGES = [
    ([helper.make_node("Add", ["x", "x"], ["doubled"])], ["x"], ["doubled"]),
    (
        [
            helper.make_node("Cast", ["doubled"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Gather", ["doubled", "i"], ["picked"]),
        ],
        ["doubled", "i"],
        ["half", "picked"],
    ),
]


def write_package(folder: Path, **change: Any) -> Path:
    """x is doubled, cast to half and indexed by i; the strings s pass straight through."""
    (folder / "stages").mkdir(parents=True)
    entries = []
    for index, (nodes, inputs, outputs) in enumerate(STAGES):
        sides = [[helper.make_tensor_value_info(n, TENSORS[n][0], TENSORS[n][2]) for n in names] for names in (inputs, outputs)]
        model = helper.make_model(
            helper.make_graph(nodes, "g", *sides), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
        )
        onnx.save(model, folder / f"stages/{index}.onnx")
        entries.append(
            {
                "index": index,
                "device": "cpu",
                "backend": "onnxruntime-cpu",
                "model": f"stages/{index}.onnx",
                "inputs": inputs,
                "outputs": outputs,
                "service_s": 1e-4,
            }
        )
    tensor = lambda n: {"name": n, "dtype": TENSORS[n][1], "shape": TENSORS[n][2]}  # noqa: E731
    plan = {
        "schema": "cutset.plan/1",
        "name": NAME,
        "decision": "split",
        "cpu_workers": 2,
        "intra_op_threads": 1,
        "tokens": 4,
        "queue_limit": 64,
        "custom_ops": [],
        "stages": entries,
        "inputs": [tensor(n) for n in ("x", "i", "s")],
        "outputs": [tensor(n) for n in ("doubled", "half", "picked", "s")],
        **change,
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


@contextmanager
def running(pipeline: Pipeline, **options: Any) -> Iterator[str]:
    """Yield HOST:PORT of a server in a thread."""
    server = Server(pipeline, ServerSettings(port=0, **options))
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda url: ready.set(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield urllib.parse.urlsplit(server.url).netloc
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
        assert pipeline.closed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("package") / "p")


@pytest.fixture(scope="module")
def address(folder):
    with running(Pipeline.load(folder), max_body_bytes=100_000) as where:
        yield where


@pytest.fixture
def client(address):
    with triton.InferenceServerClient(address) as one:
        yield one


def tensors(x=None, i=0, s=("a", "é"), *, binary=True):
    x = np.arange(8, dtype=np.float32).reshape(2, 4) if x is None else x
    text = np.array(list(s), object)
    inputs = []
    for name, datatype, array in (("x", "FP32", x), ("i", "INT64", np.array(i, np.int64)), ("s", "BYTES", text)):
        inputs.append(triton.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    return inputs


def as_json(**change):
    document = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
            {"name": "i", "datatype": "INT64", "shape": [], "data": [0]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        ],
        **change,
    }
    return json.dumps(document).encode()


def post(address, body, headers=None, path=f"/v2/models/{QUOTED}/infer", method="POST"):
    """Return status, headers and decoded body of one request, without a client library's help."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        raw = response.read()
        return response.status, dict(response.getheaders()), json.loads(raw) if raw else None
    finally:
        connection.close()


def test_health_and_metadata(client):
    model = urllib.parse.unquote(QUOTED)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    assert client.is_model_ready(model, "1")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(model)
    assert metadata["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    assert [output["datatype"] for output in metadata["outputs"]] == ["FP32", "FP16", "FP32", "BYTES"]
    config = client.get_model_config(model, "1")
    assert config["input"][2] == {"name": "s", "data_type": "TYPE_STRING", "dims": [-1]}
    assert client.get_model_repository_index() == [{"name": model, "version": "1", "state": "READY"}]
    before = client.get_inference_statistics(model)["model_stats"][0]["inference_count"]
    client.infer(model, tensors())
    assert client.get_inference_statistics()["model_stats"][0]["inference_count"] == before + 1


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [None, True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_inference_in_every_form(client, binary_in, binary_out, compression):
    wanted = (
        None
        if binary_out is None
        else [triton.InferRequestedOutput(n, binary_data=binary_out) for n in ("half", "s", "picked")]
    )
    result = client.infer(
        NAME, tensors(i=1, binary=binary_in), outputs=wanted, request_id="7", request_compression_algorithm=compression
    )
    expected = np.arange(8, dtype=np.float32).reshape(2, 4) * 2
    assert result.get_response()["id"] == "7"
    assert result.as_numpy("half").dtype == np.float16
    np.testing.assert_array_equal(result.as_numpy("half"), expected.astype(np.float16))
    np.testing.assert_array_equal(result.as_numpy("picked"), expected[1])
    texts = [text.decode() if isinstance(text, bytes) else text for text in result.as_numpy("s")]
    assert texts == ["a", "é"]
    assert (result.as_numpy("doubled") is None) == (wanted is not None)


def test_empty_tensors(client):
    x = np.zeros((0, 4), np.float32)
    wanted = [triton.InferRequestedOutput("doubled"), triton.InferRequestedOutput("s")]
    with pytest.raises(InferenceServerException, match="stage 1 failed"):
        client.infer(NAME, tensors(x, s=()), outputs=wanted)
    result = client.infer(NAME, tensors(s=()), outputs=wanted)
    assert result.as_numpy("s").shape == (0,)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"x": np.zeros((2, 5), np.float32)}, "400", r"'x': got shape \[2, 5\], expected float32 of shape \[n, 4\]"),
        ({"i": 9}, "500", r"(?s)stage 1 failed on the cpu.*'doubled': \(2, 4\)"),
    ],
)
def test_errors_reach_the_client(client, change, status, message):
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer(NAME, tensors(**change))
    assert caught.value.status() == status


def test_a_wrong_type_a_missing_input_and_an_unknown_model(client):
    wrong = triton.InferInput("x", [1, 4], "FP64")
    wrong.set_data_from_numpy(np.zeros((1, 4)))
    with pytest.raises(InferenceServerException, match="datatype 'FP64', expected 'FP32'"):
        client.infer(NAME, [wrong])
    with pytest.raises(InferenceServerException, match="'s': got nothing, expected string"):
        client.infer(NAME, tensors()[:2])
    with pytest.raises(InferenceServerException, match="unknown model 'other'"):
        client.infer("other", tensors())


def test_concurrent_clients_get_their_own_answers(address):
    def call(number):
        with triton.InferenceServerClient(address) as own:
            x = np.full((3, 4), number, np.float32)
            result = own.infer(NAME, tensors(x, s=[str(number)]))
            return result.as_numpy("doubled")[0, 0] == 2 * number and result.as_numpy("s")[0] == str(number).encode()

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(call, range(64)))


HOSTILE = {
    "nothing": (b"", {}, 400, "not JSON"),
    "no content type": (as_json(), {}, 200, None),
    "plain text type": (as_json(), {"Content-Type": "text/plain"}, 200, None),
    "truncated": (as_json()[:-1], {}, 400, "not JSON"),
    "deep": (b"[" * 90_000, {}, 400, "not JSON"),
    "array": (b"[]", {}, 400, "must be a JSON object"),
    "header length beyond": (b"{}", {"Inference-Header-Content-Length": "3"}, 400, "Inference-Header-Content-Length"),
    "header length text": (b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "Inference-Header-Content-Length"),
    "left over": (as_json() + b"xx", {"Inference-Header-Content-Length": str(len(as_json()))}, 400, "2 bytes follow"),
    "too large": (b" " * 100_001, {}, 413, "larger than 100000"),
    "bomb": (gzip.compress(b" " * 5_000_000), {"Content-Encoding": "gzip"}, 413, "larger than 100000"),
    "not gzip": (b"abc", {"Content-Encoding": "gzip"}, 400, "damaged"),
    "gzip cut": (gzip.compress(as_json())[:-3], {"Content-Encoding": "gzip"}, 400, "ends early"),
    "brotli": (b"abc", {"Content-Encoding": "br"}, 415, "not supported"),
    "unknown output": (as_json(outputs=[{"name": "zz"}]), {}, 400, "unknown output 'zz'"),
    "nan": (as_json().replace(b"[1, 2, 3, 4]", b"[NaN, 2, 3, 4]"), {}, 200, None),
}


@pytest.mark.parametrize(("body", "headers", "status", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_bodies(address, body, headers, status, message):
    answer = post(address, body, headers)
    assert answer[0] == status
    if message is None:
        assert [output["name"] for output in answer[2]["outputs"]] == ["doubled", "half", "picked", "s"]
    else:
        assert message in answer[2]["error"]
    assert post(address, as_json())[0] == 200


def test_a_chunked_body_is_bounded_too(address):
    assert post(address, iter([as_json()]))[0] == 200
    # The server may answer and hang up before it has taken everything.
    try:
        status = post(address, iter([b" " * 60_000] * 2))[0]
    except OSError:
        status = 413
    assert status == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", f"/v2/models/{QUOTED}/infer", 405),
        ("POST", "/v2", 405),
        ("POST", "/v2/models/zz/infer", 404),
        ("GET", f"/v2/models/{QUOTED}/versions/2", 404),
        ("POST", f"/v2/models/{QUOTED}/versions/1/infer", 200),
        ("GET", "/v2/models/zz", 404),
        ("GET", "/v2/models/zz/config", 404),
        ("GET", "/v2/models/zz/stats", 404),
    ],
)
def test_paths(address, method, path, status):
    answer = post(address, as_json() if method == "POST" else None, path=path, method=method)
    assert answer[0] == status
    assert ("error" in answer[2]) == (status != 200)


class Gate:
    """A first stage that waits until it is let."""

    device = "cpu"
    substitution = None

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.runs = 0

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        self.runs += 1
        self.entered.release()
        assert self.open.wait(30)
        return {"doubled": feeds["x"] * 2}

    def close(self) -> None:
        self.open.set()


class Second:
    device = "cpu"
    substitution = None

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        return {"half": feeds["doubled"].astype(np.float16), "picked": feeds["doubled"][0]}

    def close(self) -> None:
        pass


@contextmanager
def gated(tmp_path, grace_s=10.0, max_requests=1024, access_log=False, **sizes):
    gate = Gate()
    pipeline = Pipeline(read_plan(write_package(tmp_path / "gated", cpu_workers=1, **sizes)), [gate, Second()])
    with running(pipeline, grace_s=grace_s, max_requests=max_requests, access_log=access_log) as where:
        try:
            yield where, gate, pipeline
        finally:
            gate.open.set()


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_overload_is_503_and_other_endpoints_still_answer(tmp_path):
    with gated(tmp_path, tokens=1, queue_limit=1) as (where, gate, pipeline), ThreadPoolExecutor(2) as callers:
        jobs = [callers.submit(post, where, as_json()) for _ in range(2)]
        until(lambda: pipeline.stats().waiting == 1 and pipeline.stats().inside == 1)
        status, headers, body = post(where, as_json())
        assert (status, headers["retry-after"]) == (503, "1")
        assert "full" in body["error"]
        assert post(where, None, path="/v2/health/live", method="GET")[0] == 200
        gate.open.set()
        assert [job.result(30)[0] for job in jobs] == [200, 200]


def test_a_timeout_is_504_and_a_lost_client_leaves_without_work(tmp_path):
    with gated(tmp_path, tokens=1, queue_limit=4) as (where, gate, pipeline), ThreadPoolExecutor(1) as callers:
        first = callers.submit(post, where, as_json())
        assert gate.entered.acquire(timeout=20)
        status, _, body = post(where, as_json(parameters={"timeout": 30_000}))
        assert (status, "timeout" in body["error"]) == (504, True)
        until(lambda: pipeline.stats().waiting == 0)
        host, port = where.split(":")
        with socket.create_connection((host, int(port))) as leaver:
            leaver.sendall(
                b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                % (QUOTED.encode(), len(as_json()))
                + as_json()
            )
            until(lambda: pipeline.stats().waiting == 1)
        until(lambda: pipeline.stats().waiting == 0)
        gate.open.set()
        assert first.result(30)[0] == 200
        assert gate.runs == 1


def test_stopping_finishes_what_is_under_way(tmp_path):
    with ThreadPoolExecutor(1) as callers:
        with gated(tmp_path, tokens=1) as (where, gate, _pipeline):
            job = callers.submit(post, where, as_json())
            assert gate.entered.acquire(timeout=20)
            threading.Timer(0.3, gate.open.set).start()
            while not job.done() and not gate.open.is_set():
                time.sleep(0.01)
        assert job.result(30)[0] == 200


def test_health_follows_the_stages(tmp_path):
    """A stage that is replaced is not ready; one that hangs, or dies again and again, asks for a new process."""
    health = lambda where: [post(where, None, path=f"/v2/health/{what}", method="GET")[0] for what in ("ready", "live")]  # noqa: E731
    with gated(tmp_path, stage_timeout_s=0.3) as (where, gate, _), ThreadPoolExecutor(1) as callers:
        assert health(where) == [200, 200]
        gate.healthy = False
        assert health(where) == [503, 200]
        gate.hopeless = True
        assert health(where) == [503, 503]
        gate.healthy, gate.hopeless = True, False
        hung = callers.submit(post, where, as_json())
        status, _, body = hung.result(30)
        assert status == 504
        assert "stage 0 has not returned within 0.3 s" in body["error"]
        assert health(where) == [503, 503]
        gate.open.set()
        until(lambda: health(where) == [200, 200])
        assert post(where, as_json())[0] == 200


def test_a_request_that_kills_its_stage_is_the_only_one_that_fails(tmp_path):
    folder = write_package(tmp_path / "p")
    code = "import os\ndef run(feeds):\n    if feeds['x'].min() < 0: os._exit(9)\n    return {'doubled': feeds['x'] * 2}\n"
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "stages/deadly.py").write_text(code)
    plan["stages"][0] |= {"backend": "python", "model": "stages/deadly.py", "execution": "process"}
    (folder / "plan.json").write_text(json.dumps(plan))
    poison = json.loads(as_json())
    poison["inputs"][0]["data"] = [-1.0] * 4
    with running(Pipeline.load(folder, cpu_workers=2)) as where, ThreadPoolExecutor(4) as callers:
        jobs = [callers.submit(post, where, body) for body in [json.dumps(poison).encode(), *[as_json()] * 20]]
        answers = [job.result(60) for job in jobs]
        assert [status for status, _, _ in answers] == [500, *[200] * 20]
        assert "ended the stage's backend 2 times" in answers[0][2]["error"]
        for what in ("ready", "live"):
            assert post(where, None, path=f"/v2/health/{what}", method="GET")[0] == 200


def test_the_end_of_the_grace_is_answered(tmp_path):
    """A request whose stage has not ended by then, one that waits for it, and a body that is half here: 503, in JSON."""
    gate = Gate()
    pipeline = Pipeline(read_plan(write_package(tmp_path / "p", cpu_workers=1, tokens=1)), [gate, Second()])
    with ThreadPoolExecutor(2) as callers:
        with running(pipeline, grace_s=0.3) as where:
            jobs = [callers.submit(post, where, as_json()) for _ in range(2)]
            until(lambda: pipeline.stats().waiting == 1)
            host, port = where.split(":")
            slow = socket.create_connection((host, int(port)), timeout=20)
            slow.sendall(b"POST /v2/models/my%20model/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            time.sleep(0.2)  # until the head is read; a connection without a request is closed at once
            threading.Timer(1.5, gate.open.set).start()
        with slow, slow.makefile("rb") as reader:
            answer = reader.read()
        for job in jobs:
            status, _, body = job.result(30)
            assert status == 503
            assert "the server is stopping" in body["error"]
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"the server is stopping" in answer


@pytest.mark.parametrize("again", [False, True])
def test_one_signal_waits_and_a_second_one_means_now(tmp_path, again):
    """Ctrl-C reaches the whole group of `cutset serve` once; a user who presses it again wants no grace."""
    folder = write_package(tmp_path / "p")
    code = "import time\ndef run(feeds):\n    time.sleep(1.5)\n    return {'doubled': feeds['x'] * 2}\n"
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "stages/slow.py").write_text(code)
    plan["stages"][0] |= {"backend": "python", "model": "stages/slow.py"}
    (folder / "plan.json").write_text(json.dumps(plan))
    with child(folder, "--grace", "30") as (process, where), ThreadPoolExecutor(1) as callers:
        job = callers.submit(post, where, as_json())
        until(lambda: b'"inside": 1' in json.dumps(post(where, None, path="/v2/models/stats", method="GET")[2]).encode())
        process.send_signal(signal.SIGINT)
        if again:
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
        status, _, body = job.result(30)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, status) == (0, 503 if again else 200)
    assert "Traceback" not in errors
    if again:
        assert "the server is stopping" in body["error"]


def test_outputs_that_are_no_tensors_are_left_out_and_logged(tmp_path, caplog):
    folder = write_package(tmp_path / "p")
    plan = json.loads((folder / "plan.json").read_text())
    plan["outputs"][0]["dtype"] = "seq(tensor(float))"
    (folder / "plan.json").write_text(json.dumps(plan))
    with caplog.at_level(logging.WARNING), running(Pipeline.load(folder)) as where:
        names = [output["name"] for output in post(where, as_json())[2]["outputs"]]
    assert names == ["half", "picked", "s"]
    assert "output 'doubled' is a seq(tensor(float))" in caplog.text
    plan["inputs"][0]["dtype"] = "seq(tensor(float))"
    (folder / "plan.json").write_text(json.dumps(plan))
    with Pipeline.load(folder) as pipeline, pytest.raises(ConfigError, match="input 'x' is a seq"):
        Server(pipeline, ServerSettings(port=0))


@contextmanager
def child(folder, *arguments):
    code = "import sys; from cutset.codegen.runtime.main import main; sys.exit(main(sys.argv[2:], sys.argv[1]))"
    command = [sys.executable, "-c", code, str(folder), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("ready: http://127.0.0.1:"), process.stderr.read()
            assert line.endswith(f"/v2/models/{QUOTED}\n")
            yield process, urllib.parse.urlsplit(line.split()[1]).netloc
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_launcher_serves_and_a_signal_ends_it_cleanly_under_load(folder, number):
    with child(folder, "--grace", "5", "--cpu-workers", "1") as (process, where):
        results, stop = [], threading.Event()

        def load():
            while not stop.is_set():
                try:
                    results.append(post(where, as_json())[0])
                except OSError:
                    return  # the listener is gone: nothing was accepted

        with ThreadPoolExecutor(4) as callers:
            jobs = [callers.submit(load) for _ in range(4)]
            until(lambda: len(results) > 20)
            process.send_signal(number)
            output, errors = process.communicate(timeout=30)
            stop.set()
            for job in jobs:
                job.result(30)
        assert (process.returncode, output, errors) == (0, "", "")
        assert set(results) == {200}


def test_large_binary_tensors_through_the_launcher(folder):
    x = np.random.default_rng(0).standard_normal((40_000, 4), np.float32)
    with child(folder) as (process, where), triton.InferenceServerClient(where) as own:
        for _ in range(5):
            result = own.infer(NAME, tensors(x), outputs=[triton.InferRequestedOutput("doubled")])
            np.testing.assert_array_equal(result.as_numpy("doubled"), x * 2)
        body = struct.pack("<I", 1)
        assert post(where, body)[0] == 400
        process.terminate()
        assert process.wait(30) == 0
