"""Requests that no honest client sends, each with the statuses that are right for it.

The model takes x (FP32, [n, 4]), i (INT64, []) and s (BYTES, [n]).
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

INFER = "/v2/models/my%20model/infer"
BAD, GOOD = (400,), (200,)
X = struct.pack("<4f", 1, 2, 3, 4)
TEXT = struct.pack("<I", 1) + b"a"
LIMIT = 100_000


@dataclass(frozen=True)
class Hostile:
    """One request, and which answers to it are right."""

    name: str
    statuses: tuple[int, ...]
    body: bytes | None = b""
    headers: dict[str, str] = field(default_factory=dict)
    path: str = INFER
    method: str = "POST"


def entry(name: str, datatype: str, shape: object, **rest: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **rest}


def document(x: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """A right request in JSON, with x's entry and the top level changed as told."""
    first = entry("x", "FP32", [1, 4], data=[1, 2, 3, 4]) | (x or {})
    inputs = [first, entry("i", "INT64", [], data=[0]), entry("s", "BYTES", [1], data=["a"])]
    return {"inputs": inputs, **top}


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def binary(
    sizes: tuple[object, object] = (16, 5),
    raw: bytes = X + TEXT,
    x: dict[str, Any] | None = None,
    s: dict[str, Any] | None = None,
) -> Hostile:
    """A request with x and s raw; not named yet."""
    inputs = [
        entry("x", "FP32", [1, 4], parameters={"binary_data_size": sizes[0]}) | (x or {}),
        entry("i", "INT64", [], data=[0]),
        entry("s", "BYTES", [1], parameters={"binary_data_size": sizes[1]}) | (s or {}),
    ]
    header = as_json({"inputs": inputs})
    return Hostile("", BAD, header + raw, {"Inference-Header-Content-Length": str(len(header))})


def named(name: object, request: Hostile, statuses: tuple[int, ...] = BAD) -> Hostile:
    return Hostile(str(name)[:60], statuses, request.body, request.headers, request.path, request.method)


def header_lengths() -> Iterator[Hostile]:
    body = as_json(document())
    for text in ("-1", "0", "1", "99999999", "9" * 18, "9" * 400, "1.5", "0x10", "", " ", "1e3", "NaN", "1 2", "+5", "\u00b2"):
        yield Hostile(f"header length {text[:12]!r}", BAD, body, {"Inference-Header-Content-Length": text})


def binary_sizes() -> Iterator[Hostile]:
    for size in (-1, 0, 1, 15, 17, 2**31, 2**63, 2**64, 10**400, 1.5, "16", None, True, [], {}, [16]):
        yield named(f"binary size {str(size)[:20]!r}", binary((size, 5)))
    yield named("data follows the last tensor", binary(raw=X + TEXT + b"x"))
    yield named("the data ends early", binary(raw=X + TEXT[:-1]))
    yield named("raw and JSON data", binary(x={"data": [1, 2, 3, 4]}))
    yield named("right", binary(), GOOD)


def shapes() -> Iterator[Hostile]:
    for shape in (
        [-1, 4], [0], [4], [1, 4, 1], [2, 4], [1, 5], [4, 1], [2**31, 4], [2**62, 2**62], [2**64, 4], [0, 2**62], [1.0, 4],
        ["1", 4], None, {}, "1x4", [[1], 4], [True, 4], [1] * 33, [1] * 5000, [None, 4], [10**300, 4], [-(2**63), 4], [],
    ):  # fmt: skip
        yield named(f"shape {str(shape)[:24]}", Hostile("", BAD, as_json(document({"shape": shape}))))
        yield named(f"raw shape {str(shape)[:24]}", binary(x={"shape": shape}))


def datatypes() -> Iterator[Hostile]:
    for kind in (
        "FP64",
        "fp32",
        "",
        None,
        1,
        "FP32 ",
        "BYTES",
        "BOOL",
        "INT64",
        "FLOAT",
        ["FP32"],
        {},
        "FP32\u0000",
        "F" * 10_000,
    ):
        yield Hostile(f"datatype {str(kind)[:12]!r}", BAD, as_json(document({"datatype": kind})))


def values() -> Iterator[Hostile]:
    for data in (
        [1, 2, 3], [1, 2, 3, 4, 5], [[1, 2], [3, 4]], [[1, 2, 3], [4]], [1, [2], 3, 4], ["1", 2, 3, 4], [None] * 4, [True] * 4,
        {}, "1234", 1, None, [[[[1, 2, 3, 4]]]], [{}] * 4, [10**400, 1, 1, 1], [1e39, 1, 1, 1], [16777217, 1, 1, 1],
    ):  # fmt: skip
        yield Hostile(f"data {str(data)[:24]}", BAD, as_json(document({"data": data})))
    for literal, statuses in ((b"NaN", GOOD), (b"Infinity", GOOD), (b"-Infinity", GOOD), (b"nan", BAD), (b"1e999", GOOD)):
        body = as_json(document()).replace(b"[1, 2, 3, 4]", b"[" + literal + b", 2, 3, 4]")
        yield Hostile(f"the literal {literal.decode()}", statuses, body)
    for number in (1.5, 2**63, -(2**63) - 1, "0", True):
        body = document()
        body["inputs"][1]["data"] = [number]
        yield Hostile(f"i = {number!r}", BAD, as_json(body))
    out_of_range = document()
    out_of_range["inputs"][1]["data"] = [9]
    yield Hostile("an index that no stage has", (500,), as_json(out_of_range))


def structures() -> Iterator[Hostile]:
    right = as_json(document())
    for name, body in {
        "nothing": b"", "a null": b"null", "a number": b"1", "a string": b'"x"', "an array": b"[]", "an object": b"{}",
        "truncated": right[:-1], "doubled": right * 2, "a trailing comma": right[:-1] + b",}", "a comment": b"// x\n" + right,
        "single quotes": right.replace(b'"', b"'"), "UTF-16": right.decode().encode("utf-16"), "invalid UTF-8": b"\xff" + right,
        "a byte order mark": b"\xef\xbb\xbf" + right, "a null byte": right + b"\0", "deep arrays": b"[" * 90_000,
        "deep objects": b'{"a":' * 15_000, "closed deep arrays": b"[" * 40_000 + b"]" * 40_000, "a long number": b"1" * 90_000,
        "inputs null": as_json({"inputs": None}), "inputs an object": as_json({"inputs": {}}), "no inputs": as_json({"inputs": []}),
        "inputs of numbers": as_json({"inputs": [1]}), "an input without a name": as_json({"inputs": [{}]}),
        "an unknown input": as_json(document({"name": "zz"})), "a name that is a number": as_json(document({"name": 1})),
        "an unknown output": as_json(document(outputs=[{"name": "zz"}])), "outputs an object": as_json(document(outputs={"name": "s"})),
        "outputs of numbers": as_json(document(outputs=[1])),
        "an output asked for twice": as_json(document(outputs=[{"name": "s"}, {"name": "s"}])),
        "an input given twice": as_json({"inputs": [*document()["inputs"], document()["inputs"][0]]}),
        "a deep datum": as_json(document()).replace(b"[1, 2, 3, 4]", b"[" * 2000 + b"1" + b"]" * 2000),
        "ten thousand inputs": as_json({"inputs": [entry("x", "FP32", [0], data=[])] * 1500}),
    }.items():  # fmt: skip
        yield Hostile(name, BAD, body)
    yield Hostile("repeated keys", GOOD, right.replace(b'{"inputs"', b'{"inputs": [], "inputs"'))
    yield Hostile("an unknown key", GOOD, as_json(document(surprise={"a": [1] * 100})))


def identifiers_and_parameters() -> Iterator[Hostile]:
    yield Hostile("a huge id", GOOD, as_json(document(id="x" * 90_000)))
    yield Hostile("an id of control characters", GOOD, as_json(document(id="\r\n\0\x1b[31m")))
    yield Hostile("a lone surrogate in the id", GOOD, as_json(document(id="\ud800")))
    for identifier in (1, [], {}, True, 1.5):
        yield Hostile(f"id {identifier!r}", BAD, as_json(document(id=identifier)))
    for parameters in (
        None, [], 1, "x", {"timeout": -1}, {"timeout": 1.5}, {"timeout": "1"}, {"timeout": 2**63}, {"timeout": True},
        {"binary_data_output": "yes"}, {"binary_data_output": 1}, {"shared_memory_region": "r"},
    ):  # fmt: skip
        yield Hostile(f"parameters {parameters!r}", BAD, as_json(document(parameters=parameters)))
    for own in ({"classification": 1}, {"binary_data": "yes"}, {"shared_memory_region": "r"}, []):
        yield Hostile(f"output parameters {own!r}", BAD, as_json(document(outputs=[{"name": "s", "parameters": own}])))


def texts() -> Iterator[Hostile]:
    for name, raw in {
        "invalid UTF-8": struct.pack("<I", 2) + b"\xff\xfe", "a surrogate": struct.pack("<I", 3) + b"\xed\xa0\x80",
        "a length beyond": struct.pack("<I", 9) + b"a", "the largest length": struct.pack("<I", 2**32 - 1) + b"a",
        "half a length": b"\x01\x00", "nothing": b"", "two for one": TEXT * 2, "left over": TEXT + b"x",
    }.items():  # fmt: skip
        yield named(f"BYTES: {name}", binary((16, len(raw)), X + raw))
    yield named("BYTES: a count that cannot be", binary(s={"shape": [2**40]}))
    surrogate = document()
    surrogate["inputs"][2]["data"] = ["\ud800"]
    yield Hostile("BYTES: a surrogate in JSON", BAD, as_json(surrogate))


def encodings() -> Iterator[Hostile]:
    right = as_json(document())
    squeezed = gzip.compress(right)
    for name, encoding, body, statuses in (
        ("brotli", "br", right, (415,)), ("zstd", "zstd", right, (415,)), ("two encodings", "gzip, gzip", squeezed, (415,)),
        ("no gzip", "gzip", right, BAD), ("gzip cut", "gzip", squeezed[:-4], BAD), ("gzip followed", "gzip", squeezed + b"x", BAD),
        ("gzip in gzip", "gzip", gzip.compress(squeezed), BAD), ("a gzip bomb", "gzip", gzip.compress(b" " * 50_000_000), (413,)),
        ("a deflate bomb", "deflate", zlib.compress(b" " * 50_000_000), (413,)), ("a damaged sum", "gzip", squeezed[:-1] + b"x", BAD),
        ("raw deflate", "deflate", zlib.compress(right)[2:-4], BAD), ("nothing in gzip", "gzip", gzip.compress(b""), BAD),
        ("right", "gzip", squeezed, GOOD),
    ):  # fmt: skip
        yield Hostile(f"encoding: {name}", statuses, body, {"Content-Encoding": encoding})
    yield Hostile("too large", (413,), b" " * (LIMIT + 1))
    yield Hostile("as large as may be", BAD, b" " * LIMIT)


def paths() -> Iterator[Hostile]:
    model = INFER.removesuffix("/infer")
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"):
        yield Hostile(f"{method} of infer", (405,), None, {}, INFER, method)
    for path, statuses in {
        "/": (404,), "//v2": (404,), "/v2/": (404,), "/v2/../../etc/passwd": (404,), "/v2/models/%2e%2e/infer": (404,),
        "/v2/models/my%20model%00/infer": (404,), "/v2/models/my%20model/versions/2/infer": (404,), f"{model}/infer/": (404,),
        "/v2/models/my%20model/versions//infer": GOOD, f"{model}/versions/1/infer/x": (404,), f"{model}/unload": (404,),
        "/v2/models/" + "x" * 20_000: (404,), "/v2/models/%ff%fe/infer": (404,), "/v2/repository/models/m/load": (404,),
        "/metrics": (405,), "/v2/health/live": (405,), "/v2/systemsharedmemory/region/x/register": (404,),
    }.items():  # fmt: skip
        yield Hostile(f"path {path[:40]}", statuses, as_json(document()), {}, path)


def long_numbers() -> Iterator[Hostile]:
    """Python reads integers of up to 4,300 digits, and refuses to print longer ones."""
    plain = as_json(document(id="ID", parameters={"timeout": "T", "binary_data_output": False}))
    for digits in (4299, 4300, 4301, 50_000):
        number = b"9" * digits
        for place in (b"[1, 4]", b"[1, 2, 3, 4]", b'"ID"', b'"T"', b'"FP32"', b'"x"', b"false"):
            for sign in (b"", b"-"):
                value = b"[" + sign + number + b"]" if place.startswith(b"[") else sign + number
                yield Hostile(f"{sign.decode()}{digits} digits for {place.decode()}", BAD, plain.replace(place, value, 1))


def all_requests() -> list[Hostile]:
    """Every hostile request, its name numbered."""
    groups = (
        header_lengths, binary_sizes, shapes, datatypes, values, structures, identifiers_and_parameters, texts, encodings, paths, long_numbers,
    )  # fmt: skip
    found = [request for group in groups for request in group()]
    return [replace(request, name=f"{number:03} {request.name}") for number, request in enumerate(found)]


RAW = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage\r\n\r\n", (400, None)),
    "HTTP/0.9": (b"GET /v2\r\n\r\n", (200, 400, None)),
    "HTTP/9.9": (b"GET /v2 HTTP/9.9\r\nHost: x\r\n\r\n", (400, 505, None)),
    "no host": (b"GET /v2/health/live HTTP/1.1\r\n\r\n", (200, 400)),
    "a negative length": (b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello" % INFER.encode(), (400, None)),
    "two lengths": (b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!" % INFER.encode(), (400, None)),
    "length and chunks": (
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % INFER.encode(),
        (400, None),
    ),
    "a bad chunk": (b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n" % INFER.encode(), (400, None)),
    "a null byte in a header": (b"GET /v2 HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", (200, 400, None)),
    "a folded header": (b"GET /v2 HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", (200, 400, None)),
    "an announced giant": (b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n" % INFER.encode(), (413,)),
    "a length that hides behind zeros": (
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 000000000000000000100300000000\r\n\r\n" % INFER.encode(), (400,)),
    "a length that hides behind zeros where none is expected": (
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 00000000000000000000\r\n\r\n", (400,)),
    "two transfer codings": (
        b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" % INFER.encode(), (501,)),
    "two transfer codings in two fields": (
        b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % INFER.encode(),
        (501, 400)),
    "a tunnel": (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404, 405)),
    "a header flood": (b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(50_000)), (431, None)),
    "an endless header": (b"GET /v2 HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 500_000, (431, None)),
    "an endless path": (b"GET /" + b"b" * 500_000, (414, 431, 400, None)),
    "a slow head": (b"GET /v2 HTTP/1.1\r\nHo", (None,)),
    "silence": (b"", (None,)),
    "a slow body": (b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{" % INFER.encode(), (408,)),
    "a slow chunk": (b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel" % INFER.encode(), (408,)),
}  # fmt: skip
"""Bytes on a socket, and the statuses that are right; None is a connection that is closed without one."""
