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
    check_transfer_encoding,
    content_encoding,
    content_length,
    decompress,
    header_length,
    read_body,
    receive_announced,
)
from cutset.codegen.runtime.budget import BudgetExceeded, MemoryBudget


def _lease(room=10**9):
    """Return a lease beside another one, which the first could do without."""
    budget = MemoryBudget(room + 1)
    budget.lease().resize(1)
    return budget.lease()


def _read(chunks, headers=None, limit=10, end="http.request", lease=None):
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": end, "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    return asyncio.run(read_body(receive, headers or {}, limit, lease or _lease()))


def test_chunks_are_gathered_up_to_the_limit():
    assert b"".join(_read([b"01234", b"56789"])) == b"0123456789"


@pytest.mark.parametrize("headers", [{}, {b"content-length": b"9" * 19}, {b"content-length": b"11"}])
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
    assert b"".join(decompress(pieces, encoding, 1000, _lease())) == b"a" * 1000
    for limit in (999, 0):
        with pytest.raises(BodyError) as caught:
            decompress(pieces, encoding, limit, _lease())
        assert caught.value.status == 413
    for bad in (packed[:-1], packed + b"x", b"x" + packed, packed[:8] + b"\xff" * 8, b""):
        with pytest.raises(BodyError) as caught:
            decompress([bad], encoding, 1000, _lease())
        assert caught.value.status == 400


def test_a_bomb_is_stopped_at_the_limit():
    bomb = gzip.compress(bytes(20_000_000))
    with pytest.raises(BodyError) as caught:
        decompress([bomb], "gzip", 1_000_000, _lease())
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
    body, position = AnnouncedBody(len(data), offset, _lease()), 0
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
    body = AnnouncedBody(size, 0, _lease())
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

    body = AnnouncedBody(10, 0, _lease())
    body.late = True
    with pytest.raises(TimeoutError):
        asyncio.run(receive_announced(receive, body))


@pytest.mark.parametrize(
    "text", [b"", b"-1", b"+1", b"1.0", b"0x1", b"1 ", b"1" * 20, b"0" * 19 + b"1", b"000000000000000000100300000000"]
)
def test_a_length_is_at_most_nineteen_digits(text):
    with pytest.raises(BodyError) as caught:
        content_length({b"content-length": text})
    assert (caught.value.status, caught.value.closes) == (400, True)


def test_lengths_that_are_right():
    assert content_length({}) is None
    assert [content_length({b"content-length": text}) for text in (b"0", b"0" * 17 + b"16", b"9" * 19)] == [0, 16, 10**19 - 1]


@pytest.mark.parametrize("codings", [[b"gzip, chunked"], [b"gzip", b"chunked"], [b"chunked, chunked"], [b"identity"], [b""]])
def test_only_chunks_are_undone(codings):
    with pytest.raises(BodyError) as caught:
        check_transfer_encoding([(b"transfer-encoding", coding) for coding in codings])
    assert (caught.value.status, caught.value.closes) == (501, True)
    check_transfer_encoding([(b"host", b"x"), (b"transfer-encoding", b" Chunked ")])


def test_every_form_of_a_body_asks_for_its_memory():
    lease = _lease(9)
    with pytest.raises(BudgetExceeded):
        _read([b"01234", b"56789"], lease=lease)
    assert lease.size_bytes == 5
    with pytest.raises(BudgetExceeded):
        decompress([gzip.compress(bytes(10**7))], "gzip", 10**8, _lease(10**6))

    async def receive():
        raise AssertionError("nothing comes any more")

    lease = _lease(2**20 - 1)
    body = AnnouncedBody(2**21, 0, lease)
    assert len(body.room()) == 0
    body.append(b"a" * 2**21)
    assert (body.missing, len(body.view()), lease.size_bytes) == (0, 0, 0)
    with pytest.raises(BudgetExceeded):
        asyncio.run(receive_announced(receive, body))


@given(st.binary(max_size=3000), st.integers(1, 400), st.sampled_from([gzip.compress, zlib.compress]))
def test_what_unfolds_is_what_was_packed_however_it_was_cut(data, step, pack):
    packed = pack(data * 50)
    pieces = [packed[start : start + step] for start in range(0, len(packed), step)]
    lease = _lease()
    encoding = "gzip" if pack is gzip.compress else "deflate"
    assert b"".join(decompress(pieces, encoding, 50 * len(data), lease)) == data * 50
    assert lease.size_bytes == 50 * len(data)


def test_a_body_larger_than_a_step_of_decompression():
    data = np.random.default_rng(0).bytes(3 * 2**20) + bytes(5 * 2**20)
    assert b"".join(decompress([gzip.compress(data, 1)], "gzip", len(data), _lease())) == data
