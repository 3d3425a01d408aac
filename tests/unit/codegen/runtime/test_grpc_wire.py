"""Messages taken apart on the wire are what protobuf reads, and what is put together is what protobuf writes."""

from __future__ import annotations

from urllib.parse import quote

import pytest

pytest.importorskip("google.protobuf", reason="the extra `grpc` is not installed")

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from cutset.codegen.runtime import grpc_wire
from cutset.codegen.runtime.grpc_codec import Answer, read_call, shorten, write_answer, write_stream_answer
from cutset.codegen.runtime.grpc_messages import MESSAGES
from cutset.codegen.runtime.protocol import ProtocolError

REQUEST, RESPONSE = MESSAGES["ModelInferRequest"], MESSAGES["ModelInferResponse"]
RAW = st.lists(st.binary(max_size=300), max_size=4)


@given(st.text(max_size=20), RAW, st.lists(st.integers(-1, 2**40), max_size=3), st.integers(0, 2**63 - 1))
def test_a_request_is_its_head_and_its_raw_contents(name, raw, shape, timeout):
    request = REQUEST(model_name=name, id=name, raw_input_contents=raw)
    request.inputs.add(name=name, datatype="FP32", shape=shape).contents.fp32_contents.extend([1.5, 2.5])
    request.parameters["timeout"].int64_param = timeout
    call = read_call(request.SerializeToString())
    assert [bytes(part) for part in call.raw] == raw
    request.ClearField("raw_input_contents")
    assert REQUEST.FromString(call.head) == request


@given(RAW, RAW)
def test_a_field_that_is_spread_over_the_message_is_gathered(first, second):
    message = b"".join(
        REQUEST(id=mark, raw_input_contents=raw).SerializeToString() for mark, raw in (("a", first), ("b", second))
    )
    call = read_call(message)
    assert [bytes(part) for part in call.raw] == first + second
    assert REQUEST.FromString(call.head).id == "b"


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them(message):
    try:
        expected = REQUEST.FromString(message)
    except DecodeError:
        with pytest.raises((DecodeError, ProtocolError)):
            REQUEST.FromString(read_call(message).head)
        return
    call = read_call(message)
    assert [bytes(part) for part in call.raw] == list(expected.raw_input_contents)
    expected.ClearField("raw_input_contents")
    assert REQUEST.FromString(call.head) == expected


@given(st.text(max_size=50), st.integers(0, 4000), st.text("aé😀\n\ud800", max_size=3))
def test_an_error_text_fits_into_the_end_of_a_call(text, times, end):
    whole = text * times + end
    found = shorten(whole)
    assert len(quote(found)) < 4200
    if len(quote(whole, errors="replace")) <= 4096:
        assert found == whole.encode("utf-8", "replace").decode()
    else:
        assert found.endswith(f"... ({len(whole)} characters)")


def test_groups_and_many_fields_are_left_to_protobuf():
    group = b"\xa3\x06\xa0\x06\x01\xa4\x06"  # field 100: a group with field 100 = 1 in it
    many = REQUEST(raw_input_contents=[b"x"] * 10_000).SerializeToString()
    for message in (group + REQUEST(id="a", raw_input_contents=[b"x"]).SerializeToString(), many):
        with pytest.raises(ValueError, match=r"wire type 3|fields"):
            grpc_wire.split(message, 7)
        expected = REQUEST.FromString(message)
        call = read_call(message)
        assert list(call.raw) == list(expected.raw_input_contents)
        assert REQUEST.FromString(call.head).id == expected.id


@given(st.text(max_size=20), st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_pieces_make_up_the_messages(mark, raw):
    head = RESPONSE(model_name="m", id=mark)
    pieces = [head.SerializeToString()]
    for part in raw:
        pieces += [grpc_wire.prefix(6, len(part)), part]
    head.raw_output_contents.extend(raw)
    assert RESPONSE.FromString(write_answer(Answer(pieces))) == head
    stream = MESSAGES["ModelStreamInferResponse"].FromString(write_stream_answer(Answer(pieces)))
    assert (stream.infer_response, stream.error_message) == (head, "")
    failed = MESSAGES["ModelStreamInferResponse"].FromString(write_stream_answer("no", mark))
    assert (failed.error_message, failed.infer_response.id) == ("no", mark)
