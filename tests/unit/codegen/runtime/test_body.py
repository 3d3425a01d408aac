"""Bodies: sizes hold before and after decompression, damaged streams are refused."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.codegen.runtime.body import (
    AnnouncedBody,
    BodyError,
    Disconnected,
    content_encoding,
    decompress,
    header_length,
    read_body,
)


def _read(chunks, headers=None, limit=10, end="http.request"):
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": end, "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    return asyncio.run(read_body(receive, headers or {}, limit))


def test_chunks_are_gathered_up_to_the_limit():
    assert b"".join(_read([b"01234", b"56789"])) == b"0123456789"


@pytest.mark.parametrize("headers", [{}, {b"content-length": b"99999999999999999999999999"}, {b"content-length": b"11"}])
def test_more_is_refused(headers):
    with pytest.raises(BodyError) as caught:
        _read([b"01234", b"567890"], headers)
    assert caught.value.status == 413


def test_a_client_that_leaves_is_noticed():
    with pytest.raises(Disconnected):
        _read([b"0"], end="http.disconnect")


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_decompression(encoding, pack):
    packed = pack(b"a" * 1000)
    pieces = [packed[i : i + 5] for i in range(0, len(packed), 5)]
    assert b"".join(decompress(pieces, encoding, 1000)) == b"a" * 1000
    for limit in (999, 0):
        with pytest.raises(BodyError) as caught:
            decompress(pieces, encoding, limit)
        assert caught.value.status == 413
    for bad in (packed[:-1], packed + b"x", b"x" + packed, packed[:8] + b"\xff" * 8, b""):
        with pytest.raises(BodyError) as caught:
            decompress([bad], encoding, 1000)
        assert caught.value.status == 400


def test_a_bomb_is_stopped_at_the_limit():
    bomb = gzip.compress(bytes(20_000_000))
    with pytest.raises(BodyError) as caught:
        decompress([bomb], "gzip", 1_000_000)
    assert caught.value.status == 413


def test_headers():
    assert content_encoding({}) is None
    assert content_encoding({b"content-encoding": b" GZIP "}) == "gzip"
    with pytest.raises(BodyError) as caught:
        content_encoding({b"content-encoding": b"br"})
    assert caught.value.status == 415
    assert header_length({}) is None
    assert header_length({b"inference-header-content-length": b"12"}) == 12
    for bad in (b"", b"-1", b"x", b"9" * 30):
        with pytest.raises(BodyError):
            header_length({b"inference-header-content-length": bad})


@given(st.binary(min_size=1, max_size=300), st.integers(0, 310), st.randoms(use_true_random=False))
def test_an_announced_body_is_what_came_however_it_came(data, offset, random):
    body, position = AnnouncedBody(len(data), offset), 0
    while body.missing:
        count = random.randint(1, body.missing)
        if random.random() < 0.5:
            body.append(data[position : position + count])
        else:
            room = body.room()
            count = min(count, len(room))
            room[:count] = data[position : position + count]
            body.advance(count)
        position += count
    view = body.view()
    assert (bytes(view), view.readonly) == (data, True)
    if offset < len(data):
        assert np.frombuffer(view[offset:], np.uint8).ctypes.data % 64 == 0


def test_a_large_announcement_alone_takes_no_memory():
    size = 40 * 2**20
    body = AnnouncedBody(size, 0)
    assert len(body.room()) == 2**20
    data = np.random.default_rng(0).bytes(size)
    for begin in range(0, size, 2**18):
        assert len(body.room()) <= max(2**20, 8 * begin)
        body.append(data[begin : begin + 2**18])
    assert bytes(body.view()) == data
    body.discard()
    assert (body.missing, len(body.view())) == (0, 0)


def test_a_body_that_is_late_is_told_from_one_that_ends():
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": True}

    body = AnnouncedBody(10, 0)
    body.late = True
    with pytest.raises(TimeoutError):
        asyncio.run(read_body(receive, {}, 10, body))
