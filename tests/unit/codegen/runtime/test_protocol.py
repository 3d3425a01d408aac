"""The v2 codec: everything survives the round trip, nothing malformed gets in."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cutset.codegen.runtime.body import join_aligned
from cutset.codegen.runtime.config import TensorConfig
from cutset.codegen.runtime.dtypes import ELEMENT_TYPES
from cutset.codegen.runtime.protocol import Codec, ProtocolError
from cutset.codegen.runtime.wire import WireError, decode_json, decode_raw, encode_json, encode_raw

SIGNATURE = [
    TensorConfig(name="x", dtype="float32", shape=(None,)),
    TensorConfig(name="s", dtype="string", shape=(None,)),
    TensorConfig(name="b", dtype="bool", shape=None),
    TensorConfig(name="h", dtype="bfloat16", shape=None),
]
CODEC = Codec("m", SIGNATURE, SIGNATURE)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
numeric = st.sampled_from([name for name in ELEMENT_TYPES if name not in ("string", "bfloat16")])


@st.composite
def tensors(draw):
    name = draw(st.sampled_from(sorted(ELEMENT_TYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    storage = ELEMENT_TYPES[name].storage
    elements = text if name == "string" else None
    return ELEMENT_TYPES[name], draw(hnp.arrays(storage, shape, elements=elements))


def same(one, other):
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and (one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes())
    )


@given(tensors())
def test_raw_data_survives_bit_by_bit(case):
    element, tensor = case
    raw = encode_raw(tensor, element)
    assert same(decode_raw(memoryview(bytes(raw)), element, tensor.shape), tensor)


@given(tensors())
def test_json_values_survive(case):
    element, tensor = case
    if element.name == "bfloat16":
        with pytest.raises(WireError, match="no JSON form"):
            encode_json(tensor, element)
        return
    values = json.loads(json.dumps(encode_json(tensor, element)))
    back = decode_json(values, element, tensor.shape)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    # By value: a NaN's payload has no JSON form.
    np.testing.assert_array_equal(back, tensor)


def request(*, inputs=None, raw=b"", header=True, **top):
    document = {"inputs": [] if inputs is None else inputs, **top}
    text = json.dumps(document).encode()
    return CODEC.decode(memoryview(text + raw), len(text) if header else None)


def x(**change):
    return {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2.5], **change}


def binary(size, **change):
    entry = {**x(), "parameters": {"binary_data_size": size}, **change}
    del entry["data"]
    return entry


def test_a_mixed_request_and_its_response():
    strings = {"name": "s", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": 12}}
    raw = np.array([1, 2], "<f4").tobytes() + struct.pack("<I", 1) + b"a" + struct.pack("<I", 3) + "éb".encode()
    decoded = request(
        inputs=[binary(8), strings, {"name": "b", "datatype": "BOOL", "shape": [], "data": [True]}],
        raw=raw,
        id="7",
        outputs=[{"name": "s"}, {"name": "x", "parameters": {"binary_data": False}}],
        parameters={"binary_data_output": True, "timeout": 1500, "own": "kept quiet"},
    )
    assert decoded.inputs["x"].tolist() == [1, 2]
    assert decoded.inputs["s"].tolist() == [["a", "éb"]]
    assert decoded.inputs["b"].shape == ()
    assert (decoded.id, decoded.timeout_s) == ("7", 0.0015)
    response = CODEC.encode(decoded, decoded.inputs)
    document = json.loads(response.parts[0])
    assert document == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "s", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": 12}},
            {"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]},
        ],
    }
    assert response.header_length == len(response.parts[0])
    assert b"".join(response.parts[1:]) == raw[8:]


def test_without_a_choice_every_output_comes_as_json():
    decoded = request(inputs=[x()], header=False)
    assert [(output.name, output.binary) for output in decoded.outputs] == [(t.name, False) for t in SIGNATURE]
    assert CODEC.encode(request(inputs=[x()], outputs=[{"name": "x"}]), decoded.inputs).header_length is None


NINE = np.arange(2, dtype="<f4").tobytes() + b"!"
BAD = {
    "inputs missing": ({"inputs": 3}, "`inputs` must be a list"),
    "input no object": ({"inputs": [3]}, "must be a JSON object"),
    "name": ({"inputs": [x(name=3)]}, "`name` must be a string"),
    "unknown input": ({"inputs": [x(name="zz")]}, "unknown input 'zz'"),
    "twice": ({"inputs": [x(), x()]}, "given twice"),
    "no shape": ({"inputs": [x(shape=None)]}, "'x': `shape` must be"),
    "bool shape": ({"inputs": [x(shape=[True, 2])]}, "`shape` must be"),
    "negative": ({"inputs": [x(shape=[-1])]}, "negative size"),
    "overflow": ({"inputs": [x(shape=[2**62, 2**62])]}, "too large"),
    "overflow by zero": ({"inputs": [x(shape=[0, 2**62, 4], data=[])]}, "too large"),
    "sizes beside a zero": ({"inputs": [x(shape=[0, 200_000_000], data=[])]}, "zeros aside, .* more than 268435456 bytes"),
    "strings beside a zero": ({"inputs": [x(name="s", datatype="BYTES", shape=[0, 2**26 + 1], data=[])]}, "too large"),
    "rank": ({"inputs": [x(shape=[1] * 40)]}, "40 dimensions"),
    "datatype": ({"inputs": [x(datatype="FP64")]}, "datatype 'FP64', expected 'FP32'"),
    "datatype type": ({"inputs": [x(datatype=[])]}, "expected 'FP32'"),
    "no data": ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2]}]}, "exactly one of"),
    "both": ({"inputs": [x(parameters={"binary_data_size": 8})], "raw": NINE[:8]}, "exactly one of"),
    "too few": ({"inputs": [x(data=[1])]}, r"shape \[1\], expected \[2\]"),
    "nested wrong": ({"inputs": [x(shape=[2, 1], data=[[1, 2]])]}, r"shape \[1, 2\]"),
    "data no list": ({"inputs": [x(data="ab")]}, "must be a list"),
    "text number": ({"inputs": [x(data=["1", "2"])]}, "type str, expected FP32"),
    "null": ({"inputs": [x(data=[None, 1])]}, "NoneType"),
    "too big": ({"inputs": [x(data=[1e300, 1])]}, "1e\\+300"),
    "bfloat16 as json": ({"inputs": [x(name="h", datatype="BF16")]}, "raw 16-bit"),
    "size short": ({"inputs": [binary(4)], "raw": NINE[:4]}, "4 bytes of data, expected 8"),
    "size beyond": ({"inputs": [binary(80)], "raw": NINE[:8]}, "only 8 bytes"),
    "size negative": ({"inputs": [binary(-8)], "raw": NINE[:8]}, "size in bytes"),
    "size text": ({"inputs": [binary("8")], "raw": NINE[:8]}, "size in bytes"),
    "left over": ({"inputs": [binary(8)], "raw": NINE}, "1 bytes follow"),
    "left over after json": ({"inputs": [x()], "raw": b"!"}, "1 bytes follow"),
    "bool byte": ({"inputs": [binary(1, name="b", datatype="BOOL", shape=[1])], "raw": b"\2"}, "neither 0 nor 1"),
    "string cut": (
        {"inputs": [binary(6, name="s", datatype="BYTES", shape=[1])], "raw": b"\3\0\0\0ab"},
        "claims 3 bytes, 2 are left",
    ),
    "string length huge": (
        {"inputs": [binary(4, name="s", datatype="BYTES", shape=[1])], "raw": b"\xff" * 4},
        "claims 4294967295",
    ),
    "string header cut": (
        {"inputs": [binary(11, name="s", datatype="BYTES", shape=[2])], "raw": b"\4\0\0\0abcd\1\0\0"},
        "ends before element 1",
    ),
    "strings missing": ({"inputs": [binary(4, name="s", datatype="BYTES", shape=[2**20])], "raw": b"\0" * 4}, "cannot hold"),
    "strings left over": (
        {"inputs": [binary(5, name="s", datatype="BYTES", shape=[1])], "raw": b"\0" * 5},
        "1 bytes are left over",
    ),
    "not utf-8": (
        {"inputs": [binary(5, name="s", datatype="BYTES", shape=[1])], "raw": b"\1\0\0\0\xff"},
        "element 0 is not UTF-8",
    ),
    "lone surrogate": ({"inputs": [x(name="s", datatype="BYTES", shape=[1], data=["\ud800"])]}, "not UTF-8"),
    "shared memory": ({"inputs": [x(parameters={"shared_memory_region": "r"})]}, "shared memory"),
    "parameters": ({"inputs": [x(parameters=[])]}, "must be a JSON object"),
    "id": ({"inputs": [x()], "id": 3}, "`id` must be"),
    "outputs": ({"inputs": [x()], "outputs": {}}, "`outputs` must be"),
    "unknown output": ({"inputs": [x()], "outputs": [{"name": "q"}]}, "unknown output 'q'"),
    "output twice": ({"inputs": [x()], "outputs": [{"name": "x"}] * 2}, "asked for twice"),
    "binary flag": ({"inputs": [x()], "outputs": [{"name": "x", "parameters": {"binary_data": 1}}]}, "true or false"),
    "classification": ({"inputs": [x()], "outputs": [{"name": "x", "parameters": {"classification": 3}}]}, "not supported"),
    "timeout": ({"inputs": [x()], "parameters": {"timeout": -1}}, "microseconds"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_a_malformed_request_is_refused(arguments, message):
    with pytest.raises(ProtocolError, match=message):
        request(**arguments)


@pytest.mark.parametrize(
    ("body", "header_length"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"\xff\xfe{\0}\0", None),
        (b"[" * 100_000, None),
        (b"{}", 3),
        (b"{}", 0),
        (b'{"inputs": [' + b"9" * 5000 + b"]}", None),
    ],
    ids=range(8),
)
def test_what_is_no_request_is_refused(body, header_length):
    with pytest.raises(ProtocolError):
        CODEC.decode(memoryview(body), header_length)


@given(st.binary(max_size=200), st.integers(0, 220))
def test_noise_is_refused_and_never_crashes(body, header_length):
    with pytest.raises(ProtocolError):
        CODEC.decode(memoryview(b"!" + body), header_length)


def test_bfloat16_as_json_output_is_refused_and_raw_is_not():
    results = {"h": np.array([0x3F80], np.uint16)}
    with pytest.raises(ProtocolError, match="'h': BF16"):
        CODEC.encode(request(outputs=[{"name": "h"}]), results)
    raw = CODEC.encode(request(outputs=[{"name": "h", "parameters": {"binary_data": True}}]), results)
    assert bytes(raw.parts[1]) == b"\x80\x3f"


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 61])
def test_aligned_data_is_not_copied(offset):
    data = np.arange(1000, dtype="<f4")
    joined = join_aligned([b"h" * offset, data.tobytes()[:10], data.tobytes()[10:]], offset)
    tensor = decode_raw(joined[offset:], ELEMENT_TYPES["float32"], (1000,))
    assert np.shares_memory(tensor, np.frombuffer(joined, np.uint8))
    assert tensor.ctypes.data % 64 == 0
    np.testing.assert_array_equal(tensor, data)


def test_the_largest_shape_is_what_a_request_can_fill():
    codec = Codec("m", SIGNATURE, SIGNATURE, limit_bytes=80)

    def read(**change):
        return codec.decode(memoryview(json.dumps({"inputs": [x(data=[], **change)]}).encode()), None).inputs["x"].shape

    assert read(shape=[0, 20]) == (0, 20)
    with pytest.raises(ProtocolError, match="more than 80 bytes"):
        read(shape=[0, 21])


def test_an_answer_is_bounded():
    codec = Codec("m", SIGNATURE, SIGNATURE, limit_bytes=80)
    asked = request(inputs=[x()], outputs=[{"name": "x"}, {"name": "h", "parameters": {"binary_data": True}}])
    results = {"x": np.zeros(10, np.float32), "h": np.zeros(20, np.uint16), "b": np.zeros(10**6, bool)}
    assert codec.check_size(asked, results) == 80
    with pytest.raises(ProtocolError, match=r"82 bytes, more than 80.*--max-body-mb"):
        codec.check_size(asked, results | {"h": np.zeros(21, np.uint16)})
