"""The gRPC server on a real socket, driven by Triton's own clients, a health client and reflection."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import urllib.parse
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("grpc", reason="the extra `grpc` is not installed")

import grpc
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from cutset.codegen.runtime import Pipeline
from cutset.codegen.runtime.config import read_plan
from cutset.codegen.runtime.grpc_codec import Call
from cutset.codegen.runtime.grpc_messages import MESSAGES, METHODS, POOL
from cutset.codegen.runtime.launcher import Server
from cutset.codegen.runtime.settings import ServerSettings
from tests.e2e.test_runtime_server import NAME, Gate, Second, until, write_package


@contextmanager
def running(pipeline, **options):
    """Yield HOST:PORT of gRPC and of HTTP of a server in a thread."""
    server = Server(pipeline, ServerSettings(port=0, grpc_port=0, **options))
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda url: ready.set(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield f"127.0.0.1:{server.grpc_port}", urllib.parse.urlsplit(server.url).netloc
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("package") / "p")


@pytest.fixture(scope="module")
def address(folder):
    with running(Pipeline.load(folder), max_body_bytes=8_000_000) as (where, _):
        yield where


@pytest.fixture
def client(address):
    with triton.InferenceServerClient(address) as one:
        yield one


def tensors(x=None, i=0, s=("a", "é")):
    x = np.arange(8, dtype=np.float32).reshape(2, 4) if x is None else x
    text = np.array(list(s), object)
    inputs = []
    for name, datatype, array in (("x", "FP32", x), ("i", "INT64", np.array(i, np.int64)), ("s", "BYTES", text)):
        inputs.append(triton.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    return inputs


@pytest.mark.parametrize("path", sorted(MESSAGES))
def test_messages_are_the_protocols(path):
    """Every field has the number, type and label that Triton's own client compiled from the published files."""
    outer, *inner = path.split(".")
    published = getattr(service_pb2, outer, None) or getattr(model_config_pb2, outer)
    for name in inner:
        published = getattr(published, name)
    for field in MESSAGES[path].DESCRIPTOR.fields:
        if (path, field.name) == ("ModelMetadataResponse", "properties"):  # the protocol's, which Triton leaves out
            assert (field.number, field.is_repeated) == (6, True)
            continue
        other = published.DESCRIPTOR.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), field.name
        assert (field.message_type and field.message_type.name) == (other.message_type and other.message_type.name)
    if path == "ModelInferRequest":
        assert {f.name for f in published.DESCRIPTOR.fields} == {f.name for f in MESSAGES[path].DESCRIPTOR.fields}


def test_data_types_and_methods_are_the_protocols():
    ours = POOL.FindEnumTypeByName("inference.DataType").values_by_name
    assert {name: value.number for name, value in ours.items()} == dict(model_config_pb2.DataType.items())
    published = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for name, (request, response) in METHODS.items():
        assert (published[name].input_type.name, published[name].output_type.name) == (request, response)


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")
    with pytest.raises(InferenceServerException, match="unknown model 'other'"):
        client.get_model_metadata("other")
    assert "binary_tensor_data" in client.get_server_metadata().extensions
    metadata = client.get_model_metadata(NAME)
    first = metadata.inputs[0]
    assert (first.name, first.datatype, list(first.shape)) == ("x", "FP32", [-1, 4])
    config = client.get_model_config(NAME, as_json=True)["config"]
    assert config["input"][2] == {"name": "s", "data_type": "TYPE_STRING", "dims": ["-1"]}
    assert client.get_model_repository_index().models[0].state == "READY"
    before = client.get_inference_statistics(NAME).model_stats[0].inference_count
    client.infer(NAME, tensors())
    assert client.get_inference_statistics(NAME).model_stats[0].inference_count == before + 1


def test_inference(client):
    result = client.infer(NAME, tensors(i=1), request_id="7", outputs=[triton.InferRequestedOutput(n) for n in ("half", "s")])
    assert result.get_response().id == "7"
    np.testing.assert_array_equal(result.as_numpy("half"), np.arange(8, dtype=np.float16).reshape(2, 4) * 2)
    assert [text.decode() for text in result.as_numpy("s")] == ["a", "é"]
    assert result.as_numpy("doubled") is None
    large = np.random.default_rng(0).standard_normal((400_000, 4), np.float32)
    only = [triton.InferRequestedOutput("doubled")]  # all of them would be a larger answer than the server gives
    np.testing.assert_array_equal(client.infer(NAME, tensors(large), outputs=only).as_numpy("doubled"), large * 2)


def test_typed_contents(address):
    request = service_pb2.ModelInferRequest(model_name=NAME)
    x = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    x.contents.fp32_contents.extend([1, 2, 3, 4])
    request.inputs.add(name="i", datatype="INT64", shape=[]).contents.int64_contents.append(0)
    request.inputs.add(name="s", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        answer = call(request)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4, 6, 8]
        for change, message in (
            (lambda r: r.raw_input_contents.append(b"xxxx"), "1 raw contents for 3 inputs"),
            (lambda r: r.inputs[0].shape.__setitem__(0, -1), "negative size"),
            (lambda r: r.inputs[0].shape.__setitem__(0, 2), "expected \\[2, 4\\]"),
            (lambda r: r.inputs.add(name="x"), "given twice"),
            (lambda r: r.outputs.add(name="zz"), "unknown output 'zz'"),
            (lambda r: r.inputs[2].contents.bytes_contents.__setitem__(0, b"\xff"), "not UTF-8"),
            (lambda r: r.parameters["timeout"].__setattr__("int64_param", -1), "microseconds"),
            (lambda r: r.parameters["timeout"].__setattr__("string_param", "9"), "microseconds"),
            (lambda r: r.parameters["timeout"].__setattr__("uint64_param", 2**63), "microseconds"),
            (lambda r: r.inputs[0].__setattr__("datatype", "é" * 20_000), r"\.\.\. \(200[0-9][0-9] characters\)"),
        ):
            damaged = service_pb2.ModelInferRequest()
            damaged.CopyFrom(request)
            change(damaged)
            with pytest.raises(grpc.RpcError) as caught:
                call(damaged)
            assert re.search(message, caught.value.details())
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert call(request).model_name == NAME


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"x": np.zeros((2, 5), np.float32)}, "INVALID_ARGUMENT", r"'x': got shape \[2, 5\]"),
        ({"i": 9}, "INTERNAL", "stage 1 failed on the cpu"),
        ({"x": np.zeros((600_000, 4), np.float32)}, "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_errors_reach_the_client(client, change, code, message):
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer(NAME, tensors(**change))
    assert caught.value.status() == f"StatusCode.{code}"


def test_a_stream_answers_in_order_and_outlives_a_bad_request(address):
    answers, done = [], threading.Semaphore(0)

    def take(result, error):
        answers.append(str(error) if error else float(result.as_numpy("doubled")[0, 0]))
        done.release()

    with triton.InferenceServerClient(address) as own:
        own.start_stream(take)
        for number in range(20):
            own.async_stream_infer(NAME, tensors(np.full((1, 4), number, np.float32), i=9 if number == 7 else 0))
        for _ in range(20):
            assert done.acquire(timeout=30)
        own.stop_stream()
    assert "stage 1 failed" in answers[7]
    assert answers[:7] + answers[8:] == [2.0 * number for number in range(20) if number != 7]


def test_the_asyncio_client(address):
    async def ask():
        async with triton_aio.InferenceServerClient(address) as own:
            results = await asyncio.gather(*(own.infer(NAME, tensors(np.full((1, 4), n, np.float32))) for n in range(16)))
            return [float(result.as_numpy("doubled")[0, 0]) for result in results]

    assert asyncio.run(ask()) == [2.0 * number for number in range(16)]


def test_health_and_reflection(address):
    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=NAME))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(database.get_services())
        found = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
        assert set(found.methods_by_name) == set(METHODS)


def test_overload_timeouts_and_cancelled_calls(tmp_path):
    gate = Gate()
    plan = read_plan(write_package(tmp_path / "gated", cpu_workers=1, tokens=1, queue_limit=1))
    pipeline = Pipeline(plan, [gate, Second()])
    with running(pipeline) as (where, _), triton.InferenceServerClient(where) as own:
        try:
            held = own.async_infer(NAME, tensors(), callback=lambda result, error: None)
            assert gate.entered.acquire(timeout=20)
            with pytest.raises(InferenceServerException) as caught:
                own.infer(NAME, tensors(), client_timeout=0.1)
            assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
            with pytest.raises(InferenceServerException, match="timeout passed") as caught:
                own.infer(NAME, tensors(), timeout=50_000)
            until(lambda: pipeline.stats().waiting == 0)
            waiting = own.async_infer(NAME, tensors(), callback=lambda result, error: None)
            until(lambda: pipeline.stats().waiting == 1)
            with pytest.raises(InferenceServerException, match="full") as caught:
                own.infer(NAME, tensors())
            assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
            waiting.cancel()
            until(lambda: pipeline.stats().waiting == 0)
        finally:
            gate.open.set()
            held.cancel()


def test_a_token_is_asked_for(folder):
    with running(Pipeline.load(folder), token="secret") as (where, _), triton.InferenceServerClient(where) as own:
        for headers in (None, {"authorization": "Bearer wrong"}):
            with pytest.raises(InferenceServerException, match="token") as caught:
                own.infer(NAME, tensors(), headers=headers)
            assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        assert own.infer(NAME, tensors(), headers={"authorization": "Bearer secret"}).as_numpy("doubled") is not None


MALFORMED = b"\x0a\xff\xff"
SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"
SECRET = (("authorization", "Bearer secret"),)


def one_request(i=0):
    request = service_pb2.ModelInferRequest(model_name=NAME, id="7")
    for name, datatype, shape, raw in (
        ("x", "FP32", [1, 4], bytes(16)),
        ("i", "INT64", [], i.to_bytes(8, "little")),
        ("s", "BYTES", [1], b"\x01\0\0\0a"),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
    return request


def as_bytes(kind, channel, method, read=None):
    return getattr(channel, kind)(method, request_serializer=None, response_deserializer=read)


def code_of(call, *arguments, **options):
    """Return the code with which a call ended, and its words."""
    try:
        answer = call(*arguments, **options)
        if not isinstance(answer, bytes):
            list(answer)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


@pytest.mark.parametrize("method", [*(SERVICE + name for name in METHODS if name != "ModelStreamInfer"), HEALTH + "Check"])
def test_a_malformed_message_is_an_invalid_argument(address, method, caplog):
    with grpc.insecure_channel(address) as channel:
        code, text = code_of(as_bytes("unary_unary", channel, method), MALFORMED, timeout=20)
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("the message is no ")
    assert caplog.records == []


def test_a_malformed_message_on_a_stream_is_answered_in_its_turn(address):
    good = one_request().SerializeToString()
    bad = one_request(i=9).SerializeToString()
    with grpc.insecure_channel(address) as channel:
        read = service_pb2.ModelStreamInferResponse.FromString
        stream = as_bytes("stream_stream", channel, f"{SERVICE}ModelStreamInfer", read)
        answers = list(stream(iter([good, MALFORMED, bad, good, MALFORMED]), timeout=20))
    assert [answer.infer_response.id for answer in answers] == ["7", "", "7", "7", ""]
    errors = ["", "the message is no ModelInferRequest", "stage 1 failed", "", "the message is no ModelInferRequest"]
    for answer, expected in zip(answers, errors, strict=True):
        assert answer.error_message.startswith(expected)
        assert bool(answer.error_message) == bool(expected)


def test_health_checks_and_strangers_take_no_place_of_an_inference(folder):
    good, empty = one_request().SerializeToString(), health_pb2.HealthCheckRequest().SerializeToString()
    with running(Pipeline.load(folder), token="secret", max_requests=2) as (where, _), grpc.insecure_channel(where) as channel:
        infer = as_bytes("unary_unary", channel, f"{SERVICE}ModelInfer")
        watch = as_bytes("unary_stream", channel, f"{HEALTH}Watch", health_pb2.HealthCheckResponse.FromString)
        stream = as_bytes("stream_stream", channel, f"{SERVICE}ModelStreamInfer")
        watches = [watch(empty) for _ in range(64)]
        assert [next(one).status for one in watches] == [health_pb2.HealthCheckResponse.SERVING] * 64
        assert code_of(watch, empty, timeout=20)[0] == "RESOURCE_EXHAUSTED"
        assert [code_of(stream, iter([good]), timeout=20)[0] for _ in range(4)] == ["UNAUTHENTICATED"] * 4
        for _ in range(5):
            assert code_of(infer, good, metadata=SECRET, timeout=20)[0] == "OK"
            assert code_of(infer, good, timeout=20)[0] == "UNAUTHENTICATED"
        assert code_of(as_bytes("unary_unary", channel, f"{HEALTH}Check"), empty, timeout=20)[0] == "OK"
        for one in watches:
            one.cancel()


def test_reflection_asks_for_the_token(folder):
    with running(Pipeline.load(folder), token="secret") as (where, _), grpc.insecure_channel(where) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_calls_beyond_the_limit_are_refused_before_their_message_is_read(tmp_path):
    gate, good = Gate(), one_request().SerializeToString()
    pipeline = Pipeline(read_plan(write_package(tmp_path / "gated", cpu_workers=1)), [gate, Second()])
    with running(pipeline, max_requests=2) as (where, _), grpc.insecure_channel(where) as channel:
        infer = as_bytes("unary_unary", channel, f"{SERVICE}ModelInfer")
        try:
            held = [infer.future(good) for _ in range(2)]
            until(lambda: pipeline.stats().inside == 2)
            assert code_of(infer, good, timeout=20) == (
                "RESOURCE_EXHAUSTED",
                "2 calls are under way, which is the server's limit",
            )
        finally:
            gate.open.set()
        assert all(one.result(20) for one in held)
        until(lambda: code_of(infer, good, timeout=20)[0] == "OK")


def test_health_follows_the_pipeline_and_the_end_of_the_grace_is_unavailable(tmp_path):
    gate, good = Gate(), one_request().SerializeToString()
    plan = read_plan(write_package(tmp_path / "gated", cpu_workers=1, stage_timeout_s=30))
    pipeline = Pipeline(plan, [gate, Second()])
    status = health_pb2.HealthCheckResponse
    try:
        with running(pipeline, grace_s=0.3) as (where, _):
            channel = grpc.insecure_channel(where)
            watch = as_bytes("unary_stream", channel, f"{HEALTH}Watch", status.FromString)(b"")
            assert next(watch).status == status.SERVING
            gate.healthy = False
            assert next(watch).status == status.NOT_SERVING
            assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == status.NOT_SERVING
            live = as_bytes("unary_unary", channel, f"{SERVICE}ServerLive", MESSAGES["ServerLiveResponse"].FromString)
            assert live(b"").live
            gate.hopeless = True
            assert not live(b"").live
            gate.healthy, gate.hopeless = True, False
            assert next(watch).status == status.SERVING
            held = as_bytes("unary_unary", channel, f"{SERVICE}ModelInfer").future(good)
            assert gate.entered.acquire(timeout=20)
            threading.Timer(1.5, gate.open.set).start()
        assert next(watch).status == status.NOT_SERVING
        assert list(watch) == []
        assert (held.code(), held.details()) == (
            grpc.StatusCode.UNAVAILABLE, "the server is stopping; the request was not finished"
        )  # fmt: skip
        channel.close()
    finally:
        gate.open.set()


@pytest.mark.parametrize("what", ["answered", "malformed", "refused", "failed", "late", "cancelled", "stranger"])
def test_no_call_stays_in_memory_until_the_garbage_collector_comes(what, folder):
    """Each message is 4 MB; what is left of a call is found by its parts, which only the collector could free."""
    request = one_request(i=10**9 if what == "failed" else 0)
    request.outputs.add(name="picked")  # a short answer
    rows = 250_000
    request.inputs[0].shape[0] = rows + (what == "refused")
    request.raw_input_contents[0] = bytes(rows * 16)
    if what == "late":
        request.parameters["timeout"].int64_param = 1
    message = request.SerializeToString()[: -4 if what == "malformed" else None]
    codes = {"answered": "OK", "failed": "INTERNAL", "late": "DEADLINE_EXCEEDED", "stranger": "UNAUTHENTICATED"}
    token = None if what != "stranger" else "secret"
    with running(Pipeline.load(folder), token=token) as (where, _), grpc.insecure_channel(where) as channel:
        infer = as_bytes("unary_unary", channel, f"{SERVICE}ModelInfer")
        gc.collect()
        gc.disable()
        try:
            for _ in range(4):
                if what == "cancelled":
                    infer.future(message).cancel()
                else:
                    assert code_of(infer, message, timeout=20)[0] == codes.get(what, "INVALID_ARGUMENT")
            until(lambda: not [one for one in gc.get_objects() if type(one) is Call and len(one.raw)])
            until(lambda: not [one for one in gc.get_objects() if type(one) is np.ndarray and one.size == 4 * rows])
        finally:
            gc.enable()


def test_calls_count_against_the_memory_in_common(tmp_path):
    """A large request has no room beside another; alone it is taken, and nothing stays counted."""
    gate, large = Gate(), one_request()
    large.inputs[0].shape[0], large.raw_input_contents[0] = 10_000, bytes(160_000)
    large.outputs.add(name="picked")
    message = large.SerializeToString()
    pipeline = Pipeline(read_plan(write_package(tmp_path / "gated", cpu_workers=1)), [gate, Second()])
    server = Server(pipeline, ServerSettings(port=0, grpc_port=0, max_held_bytes=200_000, max_body_bytes=1_000_000))
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda url: ready.set(),))
    thread.start()
    try:
        assert ready.wait(30)
        memory = server._grpc._service.memory
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            infer = as_bytes("unary_unary", channel, f"{SERVICE}ModelInfer")
            held = infer.future(message)
            assert gate.entered.acquire(timeout=20)
            assert memory.held_bytes == len(message)
            code, text = code_of(infer, message, timeout=20)
            assert (code, "--max-held-mb" in text) == ("RESOURCE_EXHAUSTED", True)
            stream = as_bytes(
                "stream_stream", channel, f"{SERVICE}ModelStreamInfer", service_pb2.ModelStreamInferResponse.FromString
            )
            (answer,) = stream(iter([message]), timeout=20)
            assert "--max-held-mb" in answer.error_message
            gate.open.set()
            assert held.result(20)
            assert code_of(infer, message, timeout=20)[0] == "OK"
            assert len(list(stream(iter([message] * 3), timeout=20))) == 3
            infer.future(message).cancel()
            until(lambda: memory.held_bytes == 0)
            all_of_it = one_request()
            all_of_it.inputs[0].shape[0], all_of_it.raw_input_contents[0] = 50_000, bytes(800_000)
            code, text = code_of(infer, all_of_it.SerializeToString(), timeout=20)
            assert (code, "the answer has" in text) == ("INVALID_ARGUMENT", True)
            until(lambda: memory.held_bytes == 0)
    finally:
        gate.open.set()
        server.stop()
        thread.join(30)
