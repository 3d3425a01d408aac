"""Clients of the served soak package: good requests, and every kind of bad one, over HTTP and gRPC.

Each request says how it ended in one word: ``right`` or ``wrong`` where an answer came, else the status in words.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import grpc
import numpy as np

from benchmarks.soak_package import NAME, right_answer
from cutset.codegen.runtime.bench import encode_request
from cutset.codegen.runtime.config import TensorConfig
from cutset.codegen.runtime.grpc_messages import MESSAGES, PACKAGE, SERVICE

TIMEOUT_S = 30.0
INPUTS = (TensorConfig(name="a", dtype="float32", shape=("n", "m")),)
UPLOAD_BYTES = 2 << 20
"""Announced by an upload that is broken off after half of it."""
_SAID_BYTES = 500
_SPLIT = "Inference-Header-Content-Length"


class HttpClient:
    """One connection that is kept, with tensors in JSON or as binary data.

    Args:
        url: The model's URL, as the server prints it.
        binary: Whether tensors travel as binary data.
    """

    def __init__(self, url: str, *, binary: bool) -> None:
        parts = urlsplit(url)
        self._path = f"{parts.path}/infer"
        self._where = (str(parts.hostname), int(parts.port or 80))
        self._binary = binary
        self._connection = http.client.HTTPConnection(*self._where, timeout=TIMEOUT_S)
        self.said = ""
        """The error in the last answer that had one."""

    def infer(self, array: np.ndarray) -> str:
        """Send a request and return how it ended."""
        body, headers = self._encode(array)
        return self._ask(body, headers, lambda answer, split: np.array_equal(_decode(answer, split), right_answer(array)))

    def refuse(self, array: np.ndarray, random: np.random.Generator) -> str:
        """Send a request that must be refused, and return ``refused`` or what came instead."""
        document = json.loads(as_json(array)[0])
        given = document["inputs"][0]
        kind = random.choice(["type", "name", "rank", "data", "json", "model", "length", "binary"])
        match kind:
            case "type":
                given["datatype"] = "FP64"
            case "name":
                given["name"] = "b"
            case "rank":
                given["shape"] = [array.size]
            case "data":
                given["data"] = [*given["data"], 0.5]
            case "binary":
                given["parameters"] = {"binary_data_size": 7}
        body = json.dumps(document).encode()
        path = self._path.replace(NAME, "other") if kind == "model" else self._path
        headers = {"Content-Length": str(1 << 40)} if kind == "length" else {}
        outcome = self._ask(body[:-2] if kind == "json" else body, headers, lambda *_: False, path)
        return "refused" if outcome in {"400", "404", "413"} else outcome

    def abort(self, _array: np.ndarray, random: np.random.Generator) -> str:
        """Announce a body, send a part of it on a connection of its own, and leave."""
        head = f"POST {self._path} HTTP/1.1\r\nHost: soak\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n".encode()
        with socket.create_connection(self._where, TIMEOUT_S) as connection:
            connection.sendall(head + bytes(int(random.integers(0, UPLOAD_BYTES // 2))))
        return "aborted"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _encode(self, array: np.ndarray) -> tuple[bytes, dict[str, str]]:
        if not self._binary:
            return as_json(array)
        body, split = encode_request(INPUTS, {"a": array})
        return body, {_SPLIT: str(split)}

    def _ask(self, body: bytes, headers: dict[str, str], is_right: Callable[[bytes, int], bool], path: str = "") -> str:
        if self._connection.sock is not None and select.select([self._connection.sock], [], [], 0)[0]:
            self._connection.close()  # the server ended the idle connection, as it may at any time
        try:
            self._connection.request("POST", path or self._path, body, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self.said = str(error)
            return type(error).__name__
        if response.status != http.HTTPStatus.OK:
            self.said = answer[:_SAID_BYTES].decode("utf-8", "replace")
            return str(response.status)
        return "right" if is_right(answer, int(response.headers.get(_SPLIT, "0"))) else "wrong"


class GrpcClient:
    """One channel with a connection of its own.

    Args:
        where: HOST:PORT of the gRPC server.
    """

    def __init__(self, where: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(where, options=options)
        self._infer = self._channel.unary_unary(f"/{PACKAGE}.{SERVICE}/ModelInfer")  # bytes in, bytes out
        self.said = ""
        """The error in the last answer that had one."""

    def infer(self, array: np.ndarray) -> str:
        """Send a request and return how it ended."""
        return self._ask(self._request(array).SerializeToString(), lambda found: np.array_equal(found, right_answer(array)))

    def refuse(self, array: np.ndarray, random: np.random.Generator) -> str:
        """Send a request that must be refused, and return ``refused`` or what came instead."""
        request = self._request(array)
        match random.choice(["type", "name", "rank", "data", "model", "message"]):
            case "type":
                request.inputs[0].datatype = "FP64"
            case "name":
                request.inputs[0].name = "b"
            case "rank":
                request.inputs[0].shape[:] = [array.size]
            case "data":
                request.raw_input_contents[0] += b"\0"
            case "model":
                request.model_name = "other"
            case _:
                request = None
        outcome = self._ask(b"\xff" * 9 if request is None else request.SerializeToString(), lambda _: False)
        return "refused" if outcome in {"INVALID_ARGUMENT", "NOT_FOUND"} else outcome

    def abort(self, array: np.ndarray, random: np.random.Generator) -> str:
        """Send a large request and cancel it at some moment of its way."""
        request = self._request(np.zeros((UPLOAD_BYTES // 8, 2), np.float32) if random.random() < 0.5 else array)
        call = self._infer.future(request.SerializeToString(), timeout=TIMEOUT_S)
        try:
            call.result(timeout=float(random.uniform(0, 0.02)))
        except (grpc.FutureTimeoutError, grpc.RpcError):
            call.cancel()
        return "aborted"

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _request(self, array: np.ndarray) -> Any:
        given = {"name": "a", "datatype": "FP32", "shape": array.shape}
        return MESSAGES["ModelInferRequest"](model_name=NAME, inputs=[given], raw_input_contents=[array.tobytes()])

    def _ask(self, message: bytes, is_right: Callable[[np.ndarray], bool]) -> str:
        try:
            answer = self._infer(message, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            self.said = str(error.details())[:_SAID_BYTES]
            return str(error.code().name)
        found = MESSAGES["ModelInferResponse"].FromString(answer)
        array = np.frombuffer(found.raw_output_contents[0], np.float32).reshape(found.outputs[0].shape)
        return "right" if is_right(array) else "wrong"


def get_status(where: str, path: str) -> str:
    """Return the status of a GET over a connection of its own, as a health check makes it."""
    connection = http.client.HTTPConnection(where, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def post_status(url: SplitResult, body: bytes) -> str:
    """Return the status of an inference request over a connection of its own; the answer is read and forgotten."""
    connection = http.client.HTTPConnection(url.netloc, timeout=TIMEOUT_S)
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # a server may answer before it has seen all
            connection.request("POST", f"{url.path}/infer", body)
        response = connection.getresponse()
        response.read()
        return str(response.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def as_json(array: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """Return a request whose tensor is JSON, and no headers."""
    given = {"name": "a", "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
    return json.dumps({"inputs": [given]}).encode(), {}


def count_tracebacks(path: Path) -> int:
    """Return how many tracebacks a server wrote."""
    return path.read_bytes().count(b"Traceback (most recent call last)")


def _decode(body: bytes, split: int) -> np.ndarray:
    """Return the tensor of an answer, which must be the only one."""
    (found,) = json.loads(body[:split] if split else body)["outputs"]
    values = np.frombuffer(body[split:], np.float32) if split else np.asarray(found["data"], np.float32)
    return values.reshape(found["shape"])
