"""Over two hundred hostile requests: each gets the right status, the server goes on, and its memory stays bounded."""

from __future__ import annotations

import http.client
import json
import socket
import threading

import numpy as np
import psutil
import pytest

from cutset.codegen.runtime import Pipeline
from tests.e2e.hostile_requests import LIMIT, RAW, Hostile, all_requests, as_json, document
from tests.e2e.test_runtime_server import post, running, write_package

REQUESTS = all_requests()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = write_package(tmp_path_factory.mktemp("package") / "p")
    limits = {"max_body_bytes": LIMIT, "head_timeout_s": 1.0, "body_timeout_s": 1.0}
    with running(Pipeline.load(folder), **limits) as where:
        yield where


def send(address: str, request: Hostile) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value.encode("utf-8"))
        if request.body is not None:
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders()
        if request.body:
            connection.send(request.body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_there_are_over_two_hundred():
    assert len(REQUESTS) + len(RAW) >= 200


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_a_request_gets_the_right_status(address, request_):
    status, body = send(address, request_)
    assert status in request_.statuses, body[:300]
    if status != 200 and request_.method != "HEAD":
        assert set(json.loads(body)) == {"error"}


@pytest.mark.parametrize(("sent", "statuses"), RAW.values(), ids=RAW)
def test_bytes_on_a_socket(address, sent, statuses):
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(sent)
            answer = connection.recv(4096)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else None
    assert status in statuses, answer[:200]
    assert post(address, as_json(document()))[0] == 200


def test_memory_stays_bounded_and_nothing_is_left_inside(address):
    def all_of_them():
        for request in REQUESTS:
            send(address, request)

    all_of_them()
    before = psutil.Process().memory_info().rss
    threads = [threading.Thread(target=all_of_them) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert psutil.Process().memory_info().rss - before < 200 * 2**20
    status, _, body = post(address, None, path="/v2/models/stats", method="GET")
    counted = body["model_stats"][0]["pipeline"]
    assert (status, counted["inside"], counted["waiting"]) == (200, 0, 0)
    answer = post(address, as_json(document()))[2]
    assert np.array(answer["outputs"][0]["data"]).tolist() == [2, 4, 6, 8]
