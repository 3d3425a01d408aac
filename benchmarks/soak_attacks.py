"""The worst that one client can do to a server without breaking in; started by benchmarks/neighbours.py.

usage: python -m benchmarks.soak_attacks NAME URL [SCALE]

Goes on until its standard input ends, then writes what it sent, or what came back, as JSON. What costs the attacker work, such
as encoding a large body, is done before the attack begins. SCALE makes bodies and numbers of connections smaller, for tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np

from benchmarks.soak_clients import HttpClient, post_status
from benchmarks.soak_package import POISON

LARGE_BYTES = 64_000_000
SLOW_CONNECTIONS, SLOW_PAUSE_S = 100, 0.2
SLOW_BYTES = 1 << 20
IDLE_CONNECTIONS = 1000
POISON_PAUSE_S = 1.0
Going = Callable[[], bool]


def large_json(url: SplitResult, going: Going, sent: Counter[str], scale: float) -> None:
    """Send right requests of 64 MB of JSON, one after the other."""
    count = int(scale * LARGE_BYTES) // 4
    numbers = b"0.5," * count
    head = b'{"parameters":{"binary_data_output":true},"inputs":[{"name":"a","datatype":"FP32","shape":[1,%d],"data":[' % count
    body = head + numbers[:-1] + b"]}]}"
    begun()
    while going():
        sent[post_status(url, body)] += 1


def poison(url: SplitResult, going: Going, sent: Counter[str], _scale: float) -> None:
    """Send requests that end the process of the stage that they reach, a second after each answer the next."""
    array = np.full((1, 3), POISON, np.float32)
    begun()
    with closing(HttpClient(url.geturl(), binary=True)) as client:
        while going():
            sent[client.infer(array)] += 1
            end = time.monotonic() + POISON_PAUSE_S
            while going() and time.monotonic() < end:
                time.sleep(0.05)


def slow_bodies(url: SplitResult, going: Going, sent: Counter[str], scale: float) -> None:
    """Send a hundred bodies at once, byte by byte."""
    head = f"POST {url.path}/infer HTTP/1.1\r\nHost: slow\r\nContent-Length: {SLOW_BYTES}\r\n\r\n".encode()

    async def one() -> None:
        while going():
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(url.hostname, url.port)
                sent["connections"] += 1
                writer.write(head)
                while going() and not writer.is_closing() and not reader.at_eof():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(SLOW_PAUSE_S)
                writer.close()

    asyncio.run(_many(one, int(scale * SLOW_CONNECTIONS)))


def idle_connections(url: SplitResult, going: Going, sent: Counter[str], scale: float) -> None:
    """Open a thousand connections that send nothing, and open each again when the server closes it."""

    async def one() -> None:
        while going():
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(url.hostname, url.port)
                sent["connections"] += 1
                while going() and not reader.at_eof():
                    await asyncio.sleep(0.5)
                writer.close()

    asyncio.run(_many(one, int(scale * IDLE_CONNECTIONS)))


async def _many(one: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    """Run as many of a connection at once."""
    tasks = [asyncio.create_task(one()) for _ in range(count)]
    begun()
    await asyncio.gather(*tasks)


ATTACKS = {attack.__name__: attack for attack in (large_json, slow_bodies, idle_connections, poison)}


def begun() -> None:
    """Tell the benchmark that the attack begins."""
    sys.stdout.write("begun\n")
    sys.stdout.flush()


def main() -> None:
    """Attack until standard input ends, and say what was sent."""
    name, url, *scale = sys.argv[1:]
    os.nice(10)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    sent: Counter[str] = Counter()
    ATTACKS[name](urlsplit(url), lambda: not over.is_set(), sent, float(*scale or (1,)))
    sys.stdout.write(json.dumps(sent))


if __name__ == "__main__":
    main()
