"""Bytes on a connection: requests cut anywhere, one behind the other, refused half-way, larger than what is reserved."""

from __future__ import annotations

import contextlib
import gc
import gzip
import http.client
import json
import logging
import random
import socket
import struct
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from cutset.codegen.runtime import Pipeline
from cutset.codegen.runtime.body import AnnouncedBody, Exchange
from cutset.codegen.runtime.budget import MemoryBudget
from cutset.codegen.runtime.guard import GuardedProtocol
from cutset.codegen.runtime.protocol import InferRequest
from tests.e2e.test_runtime_server import QUOTED, as_json, gated, post, running, until, write_package

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


def kept() -> list[object]:
    """Return what the server still has of any request or connection."""
    kinds = (AnnouncedBody, Exchange, GuardedProtocol, InferRequest)
    return [found for found in gc.get_objects() if isinstance(found, kinds)]


def leave_within_the_body(address: str) -> None:
    with connect(address) as connection:
        connection.sendall(request(values(50_000, 6))[:500_000])
        time.sleep(0.02)


def leave_without_a_word(address: str) -> None:
    with connect(address) as connection:
        connection.sendall(request(values(50_000, 6))[:500_000])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def refused(address: str, whole: bytes, status: int) -> None:
    with connect(address) as connection:
        connection.sendall(whole)
        assert answer(connection)[0] == status


ENDINGS = {
    "the client leaves": leave_within_the_body,
    "the client resets the connection": leave_without_a_word,
    "an unknown model": lambda address: refused(address, request(values(9000, 1), "/v2/models/zz/infer"), 404),
    "a shape that does not fit": lambda address: refused(address, request(values(9000, 1).reshape(-1, 8)), 400),
    "a stage that fails": lambda address: refused(address, request(values(9000, 1)[:0]), 500),
    "an unknown encoding": lambda address: refused(address, request(values(9000, 1), headers="Content-Encoding: br\r\n"), 415),
    "an answer": lambda address: refused(address, request(values(9000, 1)), 200),
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_nothing_of_a_request_waits_for_the_garbage_collector(address, end):
    gc.collect()
    until(lambda: not kept())
    gc.disable()
    try:
        for _ in range(3):
            end(address)
        until(lambda: not kept())
    finally:
        gc.enable()


def test_nothing_of_a_request_that_was_given_up_in_the_pipeline_waits_for_the_garbage_collector(tmp_path):
    """Its time passed, or its client left."""
    with gated(tmp_path) as (where, gate, pipeline):
        gc.collect()
        until(lambda: not kept())
        gc.disable()
        try:
            assert post(where, as_json(parameters={"timeout": 1000}))[0] == 504
            with connect(where) as connection:
                connection.sendall(request(values(9000, 1)))
                until(lambda: pipeline.stats().waiting + pipeline.stats().inside == 2)
            gate.open.set()
            until(lambda: not kept())
        finally:
            gc.enable()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("cut", [None, 150, 420])
def test_an_upgrade_is_declined_and_its_request_answered(address, chunked, cut):
    """As curl --http2 and Java's client ask for it, on a connection that is used again."""
    body = as_json()
    fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    framing, sent = f"Content-Length: {len(body)}", body
    if chunked:
        framing, sent = "Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    one = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{fields}{framing}\r\n\r\n".encode() + sent
    plain = f"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode()
    stream = one + plain + one + request(values(3, 8))
    with connect(address) as connection:
        connection.sendall(stream[:cut])
        time.sleep(0.02)
        connection.sendall(stream[cut:] if cut else b"")
        assert [answer(connection)[0] for _ in range(4)] == [200] * 4


def test_an_empty_line_does_not_keep_an_idle_connection(address):
    with connect(address) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(connection)[0] == 200
        connection.sendall(b"\r\n")
        connection.settimeout(15)
        assert connection.recv(1) == b""


def test_pipelined_requests_whose_client_left_are_counted_and_are_no_errors(tmp_path, caplog):
    caplog.set_level(logging.INFO, "cutset.access")
    body = as_json()
    with gated(tmp_path, access_log=True) as (where, gate, pipeline):
        with connect(where) as connection:
            connection.sendall(
                b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (INFER.encode(), len(body), body) * 3
            )
            assert gate.entered.acquire(timeout=20)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: sum(record.name == "cutset.access" for record in caplog.records) == 3)
        gate.open.set()
        until(lambda: pipeline.stats().inside == 0)
        assert gate.runs == 1
    assert [json.loads(record.message)["status"] for record in caplog.records if record.name == "cutset.access"] == [499] * 3
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


LIMIT = 3 * 2**20 + 1


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server with room for one large request at a time, and its budget."""
    folder = write_package(tmp_path_factory.mktemp("package") / "p")
    with running(Pipeline.load(folder), max_held_bytes=LIMIT, body_timeout_s=1.5) as where:
        (budget,) = [found for found in gc.get_objects() if isinstance(found, MemoryBudget) and found.limit_bytes == LIMIT]
        yield where, budget


def held_by_metrics(address: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as found:
        (line,) = [line for line in found.read().decode().splitlines() if line.startswith("cutset_held_bytes ")]
    return float(line.split()[1])


def test_bodies_have_one_bound_in_common(small):
    where, budget = small
    whole = request(values(120_000, 9))  # 1.9 MB, and its answer as much
    with connect(where) as first, connect(where) as second:
        first.sendall(whole[:-1])
        until(lambda: budget.held_bytes > 1_900_000)
        assert held_by_metrics(where) == budget.held_bytes
        second.sendall(whole)
        status, text, _ = answer(second)
        assert (status, b"--max-held-mb" in text) == (503, True)
        assert post(where, as_json())[0] == 200
        first.sendall(whole[-1:])
        assert answer(first)[0] == 200
        until(lambda: budget.held_bytes == 0)
        second.sendall(whole)
        assert answer(second)[0] == 200
    until(lambda: budget.held_bytes == 0)


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_unpacked_and_chunked_bodies_count_too(small, encoding):
    where, budget = small
    body = b" " * 2_000_000 + as_json()
    packed = gzip.compress(body) if encoding == "gzip" else body
    with connect(where) as first:
        first.sendall(request(values(120_000, 9))[:-1])
        until(lambda: budget.held_bytes > 1_900_000)
        status, headers, found = post(where, iter([packed]), {"Content-Encoding": encoding})
        assert (status, headers["retry-after"], "--max-held-mb" in found["error"]) == (503, "1", True)
    until(lambda: budget.held_bytes == 0)
    assert post(where, iter([packed]), {"Content-Encoding": encoding})[0] == 200
    until(lambda: budget.held_bytes == 0)


def test_an_answer_that_nobody_reads_is_held_for_a_while_only(small):
    where, budget = small
    host, port = where.split(":")
    with socket.socket() as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.connect((host, int(port)))
        idle.sendall(request(values(500_000, 9)))
        until(lambda: budget.held_bytes > 8_000_000)
        time.sleep(0.2)
        assert budget.held_bytes > 8_000_000
        until(lambda: budget.held_bytes == 0)
        idle.settimeout(20)
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := idle.recv(2**20):
                taken += len(piece)
        assert taken < 8_000_000


def large_json(x: np.ndarray, **change: object) -> bytes:
    entries = [
        {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()},
        {"name": "i", "datatype": "INT64", "shape": [], "data": [0]},
        {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"]},
    ]
    return json.dumps({"inputs": entries, "outputs": [{"name": "doubled"}], **change}).encode()


def json_workers() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if any("json_worker" in word for word in child.cmdline())]


def test_large_json_is_read_and_written_where_it_stops_nobody(address):
    x, others = values(20_000, 11), json_workers()
    assert post(address, large_json(x[:9]))[0] == 200
    status, _, found = post(address, large_json(x, id="7"))
    assert (status, found["id"]) == (200, "7")
    np.testing.assert_array_equal(np.float32(found["outputs"][0]["data"]).reshape(x.shape), x * 2)
    assert "expected [20000, 5]" in post(address, large_json(x).replace(b"[20000, 4]", b"[20000, 5]"))[2]["error"]
    (worker,) = [child for child in json_workers() if child not in others]
    worker.suspend()
    try:
        with ThreadPoolExecutor(1) as clients:
            waiting = clients.submit(post, address, large_json(x))
            for _ in range(3):
                assert post(address, None, path="/v2/health/ready", method="GET")[0] == 200
                assert post(address, as_json())[0] == 200
            assert not waiting.done()
            worker.resume()
            assert waiting.result(30)[0] == 200
    finally:
        worker.resume()


def test_json_above_the_limit_is_refused_before_it_is_read(tmp_path):
    before = json_workers()
    with running(Pipeline.load(write_package(tmp_path / "p")), max_json_bytes=300_000) as where:
        with connect(where) as connection:
            connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 300001\r\n\r\n" % INFER.encode())
            status, text, _ = answer(connection)
            assert (status, b"binary tensor data" in text, connection.recv(1)) == (413, True, b"")
        body = b" " * 300_000 + as_json()
        for packed, headers in ((gzip.compress(body), {"Content-Encoding": "gzip"}), (iter([body]), {})):
            status, _, found = post(where, packed, headers)
            assert (status, "binary tensor data" in found["error"]) == (413, True)
        x = values(10_000, 12)
        with connect(where) as connection:
            connection.sendall(request(x))
            assert answer(connection)[0] == 200
        short = large_json(np.full((5_000, 4), 1 / 3, np.float32)).replace(b"0.3333333432674408", b"0.33333334")
        status, _, found = post(where, short)  # whose answer is twice as long
        assert (status, "binary tensor data" in found["error"]) == (400, True)
    assert json_workers() == before


def test_many_strings_arrive_as_they_were(address):
    """They are taken apart, checked and put together beside the event loop."""
    texts = [f"é{number}" for number in range(30_000)]
    raw = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    entries = [
        {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
        {"name": "i", "datatype": "INT64", "shape": [], "data": [0]},
        {"name": "s", "datatype": "BYTES", "shape": [len(texts)], "parameters": {"binary_data_size": len(raw)}},
    ]
    head = json.dumps({"inputs": entries, "outputs": [{"name": "s", "parameters": {"binary_data": True}}]}).encode()
    lines = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(head) + len(raw)}\r\n"
    with connect(address) as connection:
        connection.sendall(lines.encode() + b"Inference-Header-Content-Length: %d\r\n\r\n" % len(head) + head + raw)
        status, _, found = answer(connection)
    assert (status, found == raw) == (200, True)
    as_text = [*entries[:2], {"name": "s", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]
    document = json.dumps({"inputs": as_text, "outputs": [{"name": "s"}]}).encode()
    assert post(address, document)[2]["outputs"][0]["data"] == texts
