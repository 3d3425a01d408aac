"""What a server can be told: a token, TLS, limits, an access log; and what it tells: metrics, traces, `bench`."""

from __future__ import annotations

import http.client
import json
import logging
import ssl
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import requests

pytest.importorskip("grpc", reason="the extra `grpc` is not installed")

import grpc
from prometheus_client.parser import text_string_to_metric_families

from cutset.codegen.runtime import Pipeline
from cutset.codegen.runtime.grpc_messages import MESSAGES
from cutset.codegen.runtime.main import main
from cutset.codegen.runtime.metrics import _read_gpus
from tests.certificates import make_certificate
from tests.e2e.test_runtime_grpc import running as running_both
from tests.e2e.test_runtime_server import QUOTED, as_json, child, gated, post, running, until, write_package

INFER = f"/v2/models/{QUOTED}/infer"


@pytest.fixture
def folder(tmp_path):
    place = write_package(tmp_path / "p")
    np.savez(place / "sample.npz", x=np.ones((2, 4), np.float32), i=np.array(0), s=np.array(["é", "b"]))
    return place


def test_a_token_is_asked_for_everywhere_but_at_the_health_checks(folder):
    with running(Pipeline.load(folder), token="secret") as where:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}, {"Authorization": "secret"}):
            status, found, body = post(where, as_json(), headers)
            assert (status, found["www-authenticate"], set(body)) == (401, "Bearer", {"error"})
            assert post(where, None, headers, path="/metrics", method="GET")[0] == 401
        assert post(where, as_json(), {"Authorization": "Bearer secret"})[0] == 200
        assert post(where, None, path="/v2/health/ready", method="GET")[0] == 200


def test_too_many_requests_are_429(tmp_path):
    with gated(tmp_path, max_requests=1) as (where, gate, _), ThreadPoolExecutor(1) as callers:
        job = callers.submit(post, where, as_json())
        assert gate.entered.acquire(timeout=20)
        status, headers, body = post(where, as_json())
        assert (status, headers["retry-after"]) == (429, "1")
        assert "limit" in body["error"]
        assert post(where, None, path="/v2", method="GET")[0] == 200
        gate.open.set()
        assert job.result(30)[0] == 200
        assert post(where, as_json())[0] == 200


def test_metrics_are_prometheus_text_and_add_up(folder):
    with running(Pipeline.load(folder)) as where:
        for _ in range(3):
            assert post(where, as_json())[0] == 200
        broken = json.loads(as_json())
        broken["inputs"][1]["data"] = [9]
        assert post(where, json.dumps(broken).encode())[0] == 500
        assert post(where, b"{}")[0] == 400
        text = requests.get(f"http://{where}/metrics", timeout=10).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families.values() for s in family.samples}
    assert samples["cutset_answers_total", (("protocol", "http"), ("status", "200"))] == 3
    assert samples["cutset_answers_total", (("protocol", "http"), ("status", "500"))] == 1
    assert samples["cutset_failures_total", (("reason", "stage"),)] == 1
    assert samples["cutset_request_seconds_count", ()] == 3
    assert samples["cutset_request_seconds_bucket", (("le", "+Inf"),)] == 3
    for stage, count in (("0", 4), ("1", 3)):
        assert samples["cutset_stage_seconds_count", (("device", "cpu"), ("stage", stage))] == count
    assert samples["cutset_stage_failures_total", (("device", "cpu"), ("stage", "1"))] == 1
    assert samples["cutset_ready", ()] == 1
    assert 0 < samples["cutset_stage_seconds_sum", (("device", "cpu"), ("stage", "0"))] < 1


def test_a_gpu_is_read_through_nvml():
    """No GPU is here: a stand-in has the four functions of NVML's Python binding that are used."""
    nvml = SimpleNamespace(
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=50 + handle),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=2**30),
    )
    found = {(s.name, s.labels["gpu"]): s.value for family in _read_gpus(nvml) for s in family.samples}
    assert found["cutset_gpu_utilisation", "1"] == 0.51
    assert found["cutset_gpu_memory_bytes", "0"] == 2**30


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_tls_over_http_and_grpc(folder, certificate):
    cert, key = certificate
    with running_both(Pipeline.load(folder), tls_certificate=cert, tls_key=key) as (grpc_where, where):
        host, port = where.split(":")
        trust = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection(host, int(port), context=trust, timeout=20)
        connection.request("POST", INFER, as_json())
        assert connection.getresponse().status == 200
        connection.close()
        with grpc.secure_channel(grpc_where, grpc.ssl_channel_credentials(cert.read_bytes())) as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerReady",
                request_serializer=MESSAGES["ServerReadyRequest"].SerializeToString,
                response_deserializer=MESSAGES["ServerReadyResponse"].FromString,
            )
            assert call(MESSAGES["ServerReadyRequest"](), timeout=20).ready


def test_the_access_log_is_one_line_of_json_a_request(folder, caplog):
    with caplog.at_level(logging.INFO, "cutset.access"), running(Pipeline.load(folder), access_log=True) as where:
        post(where, as_json())
        post(where, b"{}\n", path="/v2/models/zz%0aforged/infer")
        until(lambda: len(caplog.records) >= 2)
    first, second = (json.loads(record.message) for record in caplog.records[:2])
    assert (first["method"], first["path"], first["status"]) == ("POST", urllib.parse.unquote(INFER), 200)
    assert second["status"] == 404
    assert "\n" not in caplog.records[1].message


def test_the_launcher_takes_the_options_and_warms_up(folder, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    options = ["--grpc-port", "0", "--token-file", str(token), "--access-log", "--max-batch", "4", "--max-delay-s", "0.001"]
    with child(folder, *options) as (process, where):
        assert process.stdout.readline().startswith("grpc: 127.0.0.1:")
        status, _, body = post(where, None, {"Authorization": "Bearer secret"}, "/v2/models/stats", "GET")
        assert (status, body["model_stats"][0]["inference_count"]) == (200, 3)
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(errors[errors.index("{") :])["status"] == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tls-cert", "x.pem"], "both --tls-cert and --tls-key"),
        (["--token-file", "nowhere"], "there is no file nowhere"),
        (["--tls-cert", "a", "--tls-key", "b"], "there is no file a"),
    ],
)
def test_bad_options_are_one_message(folder, capsys, options, message):
    assert main(options, folder) == 1
    assert message in capsys.readouterr().err


def test_bench_measures_the_pipeline_and_a_server(folder, capsys):
    assert main(["bench", "--seconds", "0.1", "--concurrency", "1,2", "--json"], folder) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["concurrency"] for entry in found] == [1, 2]
    assert all(entry["throughput_per_s"] > 0 and entry["failed"] == 0 and entry["p50_s"] <= entry["p99_s"] for entry in found)
    with running(Pipeline.load(folder)) as where:
        url = f"http://{where}/v2/models/{QUOTED}"
        assert main(["bench", "--url", url, "--seconds", "0.1", "--concurrency", "2"], folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "callers"
    assert lines[1].split()[-1] == "0"
    (folder / "sample.npz").unlink()
    assert main(["bench"], folder) == 1
    assert "no sample.npz" in capsys.readouterr().err
