"""JSON in a process of its own: what comes back is what the codec itself gives, and the process may die."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import numpy as np
import psutil
import pytest

from cutset.codegen.runtime import json_process
from cutset.codegen.runtime.config import TensorConfig
from cutset.codegen.runtime.errors import Closed, PipelineError
from cutset.codegen.runtime.json_process import JsonProcess, JsonTooLarge, check_json_size
from cutset.codegen.runtime.protocol import Codec, ProtocolError

SIGNATURE = [
    TensorConfig(name="x", dtype="float32", shape=(None,)),
    TensorConfig(name="s", dtype="string", shape=(None,)),
    TensorConfig(name="h", dtype="bfloat16", shape=None),
]
CODEC = Codec("m", SIGNATURE, SIGNATURE, json_bytes=10**6)
MEMORY_BYTES = 128 * 2**20


@pytest.fixture
def apart():
    process = JsonProcess(CODEC, MEMORY_BYTES)
    yield process
    process.close()


def read(process, text):
    return asyncio.run(process.read_header(memoryview(text)))


def document(data, **change):
    entry = {"name": "x", "datatype": "FP32", "shape": [len(data)], "data": data, **change}
    strings = {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["a", "é"]}
    raw = {"name": "h", "datatype": "BF16", "shape": [2], "parameters": {"binary_data_size": 4}}
    return json.dumps({"id": "7", "inputs": [entry, strings, raw], "parameters": {"timeout": 1500}}).encode()


def test_a_request_is_read_as_by_the_codec_itself(apart):
    text = document(np.random.default_rng(0).standard_normal(3000).tolist())
    raw = memoryview(b"\x80\x3f\x00\x40")
    one, other = (CODEC.assemble(header, raw) for header in (read(apart, text), CODEC.read_header(text)))
    assert (one.id, one.outputs, one.timeout_s) == (other.id, other.outputs, other.timeout_s)
    assert list(one.inputs) == ["x", "s", "h"]
    for name, tensor in other.inputs.items():
        assert one.inputs[name].dtype == tensor.dtype
        np.testing.assert_array_equal(one.inputs[name], tensor)


def test_an_answer_is_written_as_by_the_codec_itself(apart):
    described = (("x", (1000,), None), ("h", (2,), 4), ("s", (2,), None))
    tensors = {"x": np.arange(2000, dtype=np.float32)[::2], "s": np.array(["a", "é"], object)}
    written = asyncio.run(apart.write_header("7", described, tensors))
    assert written == CODEC.write_header("7", described, tensors)


def test_what_is_malformed_is_refused_with_the_codecs_words(apart):
    with pytest.raises(ProtocolError, match="'x': `data` has shape"):
        read(apart, document([1, 2], shape=[3]))
    with pytest.raises(ProtocolError, match="not JSON"):
        read(apart, b"[" * 10**6)
    with pytest.raises(ProtocolError, match="not JSON"):
        read(apart, document([1]).replace(b"[1]", b"[" + b"9" * 4301 + b"]"))
    with pytest.raises(ProtocolError, match="'h': BF16"):
        asyncio.run(apart.write_header(None, [("h", (2,), None)], {"h": np.zeros(2, np.uint16)}))
    with pytest.raises(ProtocolError, match=r"more than 1000000; .* binary tensor data"):
        asyncio.run(apart.write_header(None, [("x", (10**6,), None)], {"x": np.zeros(10**6, np.float32)}))


def test_what_takes_too_much_memory_is_refused_and_the_process_goes_on(apart):
    read(apart, document([1]))
    before = apart.process_id
    with pytest.raises(JsonTooLarge, match="binary tensor data"):
        read(apart, b"[" + b"[]," * 4_000_000 + b"[]]")
    assert read(apart, document([1])).id == "7"
    assert apart.process_id == before
    with pytest.raises(JsonTooLarge, match=r"11 bytes, more than 10; .*binary tensor data"):
        check_json_size(11, 10)


def test_a_process_that_died_between_two_documents_is_replaced(apart):
    read(apart, document([1]))
    before = apart.process_id
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    assert read(apart, document([1])).id == "7"
    assert apart.process_id != before
    assert not psutil.pid_exists(before)


def test_an_answer_that_was_not_read_is_no_later_documents(apart, monkeypatch):
    def out_of_memory(_stream):
        monkeypatch.undo()
        raise MemoryError

    first, second = (document([1]).replace(b'"7"', name) for name in (b'"first"', b'"second"'))
    read(apart, first)
    monkeypatch.setattr(json_process, "receive", out_of_memory)
    with pytest.raises(MemoryError):
        read(apart, first)
    assert read(apart, second).id == "second"


def test_a_document_whose_process_dies_fails_alone():
    process = JsonProcess(CODEC, MEMORY_BYTES)

    async def kill_while_reading():
        text = memoryview(document([1.5] * 10))
        await process.read_header(text)
        os.kill(process.process_id, signal.SIGSTOP)
        reading = asyncio.create_task(process.read_header(text))
        await asyncio.sleep(0.05)
        os.kill(process.process_id, signal.SIGKILL)
        with pytest.raises(PipelineError, match="binary tensor data"):
            await reading
        assert (await process.read_header(text)).id == "7"

    try:
        asyncio.run(kill_while_reading())
    finally:
        process.close()
        process.close()
    assert process.process_id is None
    with pytest.raises(Closed, match="stopping"):
        read(process, b"{}")
