"""Bytes on a connection: requests cut anywhere, one behind the other, refused half-way, larger than what is reserved."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import time

import numpy as np
import psutil
import pytest

from cutset.codegen.runtime import Pipeline
from tests.e2e.test_runtime_server import QUOTED, as_json, post, running, write_package

INFER = f"/v2/models/{QUOTED}/infer"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = write_package(tmp_path_factory.mktemp("package") / "p")
    with running(Pipeline.load(folder), body_timeout_s=1.5, head_timeout_s=1.5) as where:
        yield where


def request(x: np.ndarray, path: str = INFER, *, headers: str = "", pad: int = 0) -> bytes:
    """Return an inference in the binary form as it stands on the wire."""
    entries = [
        {"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}},
        {"name": "i", "datatype": "INT64", "shape": [], "data": [0]},
        {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"]},
    ]
    outputs = [{"name": "doubled", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": entries, "outputs": outputs}).encode() + b" " * pad
    body = head + x.tobytes()
    lines = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}"
    return lines.encode() + b"Inference-Header-Content-Length: %d\r\n\r\n" % len(head) + body


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answer(connection: socket.socket) -> tuple[int, bytes, bytes]:
    """Return status, JSON part and raw part of the next answer, and not a byte more."""
    taken = b""
    while not taken.endswith(b"\r\n\r\n"):
        taken += connection.recv(1) or pytest.fail(f"closed after {taken!r}")
    status = int(taken.split(b" ", 2)[1])
    fields = dict(line.lower().split(b": ", 1) for line in taken.strip().split(b"\r\n")[1:])
    body, length = b"", int(fields[b"content-length"])
    while len(body) < length:
        body += connection.recv(length - len(body)) or pytest.fail("closed within the body")
    split = int(fields.get(b"inference-header-content-length", length))
    return status, body[:split], body[split:]


def values(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 4), np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_requests_cut_anywhere_and_one_behind_the_other(address, seed):
    rng = random.Random(seed)
    tensors = [values(rng.choice([1, 900, 1024, 5000, 20_000]), seed * 10 + number) for number in range(4)]
    stream = b"".join(request(x, pad=rng.randint(0, 9)) for x in tensors)
    with connect(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        position = 0
        for _ in range(rng.randint(0, 6)):
            end = rng.randint(position, len(stream))
            connection.sendall(stream[position:end])
            position = end
            time.sleep(rng.choice([0, 0.01]))
        connection.sendall(stream[position:])
        for x in tensors:
            status, head, raw = answer(connection)
            assert status == 200, head
            np.testing.assert_array_equal(np.frombuffer(raw, np.float32).reshape(x.shape), x * 2)


@pytest.mark.parametrize(
    ("path", "headers", "expected"), [("/v2/models/zz/infer", "", 404), (INFER, "Content-Encoding: br\r\n", 415)]
)
def test_what_was_refused_before_its_body_came_leaves_the_connection_in_order(address, path, headers, expected):
    x = values(50_000, 1)
    refused = request(x, path, headers=headers)
    with connect(address) as connection:
        connection.sendall(refused[:1000])
        if expected == 404:
            assert answer(connection)[0] == expected
        connection.sendall(refused[1000:] + request(x))
        if expected != 404:
            assert answer(connection)[0] == expected
        status, _, raw = answer(connection)
        assert status == 200
        np.testing.assert_array_equal(np.frombuffer(raw, np.float32).reshape(x.shape), x * 2)


def test_a_client_that_asks_first_is_told_to_go_on(address):
    whole = request(values(3, 2), headers="Expect: 100-continue\r\n")
    head, body = whole.split(b"\r\n\r\n", 1)
    with connect(address) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert answer(connection)[0] == 200


def test_a_body_that_does_not_come_is_408_and_a_refused_one_is_not_waited_for(address):
    whole = request(values(50_000, 3))
    with connect(address) as slow, connect(address) as refused:
        slow.sendall(whole[:100_000])
        refused.sendall(request(values(50_000, 3), "/v2/models/zz/infer")[:100_000])
        assert answer(refused)[0] == 404
        status, body, _ = answer(slow)
        assert (status, b"took more than 1.5 s" in body) == (408, True)
        assert slow.recv(1) == b""
        refused.settimeout(8)
        assert refused.recv(1) == b""


def test_slow_requests_on_a_connection_that_is_used_again_have_their_time_each(address):
    """Timers are left to run: none may end a request that came after the one it was set for."""
    whole = request(values(20_000, 4))
    with connect(address) as connection:
        for _ in range(4):
            connection.sendall(whole[:100_000])
            time.sleep(0.6)
            connection.sendall(whole[100_000:])
            assert answer(connection)[0] == 200


def test_a_body_larger_than_what_is_reserved_for_an_announcement(address):
    x = values(1_500_000, 5)
    with connect(address) as connection:
        connection.sendall(request(x))
        status, _, raw = answer(connection)
    assert status == 200
    np.testing.assert_array_equal(np.frombuffer(raw, np.float32).reshape(x.shape), x * 2)


def test_announcements_alone_take_no_memory(address):
    """Of an inference, and of one that was refused at once but is still being sent."""
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 200000000\r\n\r\n" + b"x" * 1000
    before = psutil.Process().memory_info().rss
    with contextlib.ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(connect(address))
            connection.sendall(head % (INFER if number % 2 else "/v2/models/zz/infer").encode())
        assert post(address, as_json())[0] == 200
        assert psutil.Process().memory_info().rss - before < 60 * 2**20
    assert post(address, as_json())[0] == 200


@pytest.mark.parametrize("path", [INFER, "/v2/models/zz/infer"])
def test_an_idle_connection_keeps_nothing_of_its_last_request(address, path):
    whole = request(values(130_000, 7), path)
    with contextlib.ExitStack() as stack:
        before = None
        for _ in range(41):
            connection = stack.enter_context(connect(address))
            connection.sendall(whole)
            answer(connection)
            before = before or psutil.Process().memory_info().rss
        assert psutil.Process().memory_info().rss - before < 20 * len(whole)


def test_a_client_that_leaves_within_its_body_is_forgotten(address):
    for _ in range(5):
        with connect(address) as connection:
            connection.sendall(request(values(50_000, 6))[:200_000])
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", INFER, as_json(), {"Connection": "close"})
    response = connection.getresponse()
    assert (response.status, response.getheader("connection")) == (200, "close")
    response.read()
    connection.close()
    counted = post(address, None, path="/v2/models/stats", method="GET")[2]["model_stats"][0]["pipeline"]
    assert (counted["inside"], counted["waiting"]) == (0, 0)
