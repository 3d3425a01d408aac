"""Our front against bare ones, and our server against others over the same files; two sections of benchmarks.runtime."""

from __future__ import annotations

import base64
import http.client
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

import benchmarks.serving_models as models
from benchmarks.serving_children import free_port, front, peer, peers_environment, serving
from benchmarks.serving_turns import CALLERS, PHOTO, Bench, median_ratio, timed
from cutset.codegen.runtime.bench import HttpCaller, Load, load
from cutset.codegen.runtime.config import read_plan
from cutset.codegen.runtime.grpc_messages import MESSAGES
from cutset.profilers.session import open_session

Caller = Callable[[], Callable[[], Any]]
BARE_HTTP = ("asgi-uvloop", "asgi", "asgi-plain", "granian", "starlette", "fastapi")
BARE_GRPC = ("grpc-uvloop", "grpc")
STARTS = 3
PEERS = {"fastapi": 1, "litserve": 1, "kserve": 4}
"""The other servers, and how many times as long their turns are: of the slowest, a short one would see no answer."""


def fronts(bench: Bench) -> list[dict[str, Any]]:
    """Return requests a second of an echo of 600 KB: bare fronts and ours, each on one core, the callers on the other."""
    network = models.echo(bench.place / "echo.onnx")
    folder = models.write_package(bench.place / "echo", network, PHOTO, passed=True)
    plan = read_plan(folder)
    with ExitStack() as stack:
        callers: dict[str, Caller] = {}
        ports: dict[str, int] = {}
        url = stack.enter_context(serving(folder, "--cpu-workers", "1", core=0))
        callers["ours, HTTP"] = lambda: HttpCaller(url, plan, {models.INPUT: PHOTO})
        ports["ours, HTTP"] = urlsplit(url).port or 0
        for kind in BARE_HTTP:
            ports[kind] = port = stack.enter_context(front(kind))
            callers[kind] = lambda p=port: RawCaller(p, "/echo")
        ports["ours, gRPC"] = port = free_port()
        stack.enter_context(serving(folder, "--grpc-port", str(port), "--cpu-workers", "1", core=0))
        callers["ours, gRPC"] = lambda p=port: grpc_caller(p)
        for kind in BARE_GRPC:
            ports[kind] = port = stack.enter_context(front(kind))
            callers[kind] = lambda p=port: grpc_caller(p)
        processes = {name: server_of(port) for name, port in ports.items()}
        stack.enter_context(on_core(1))
        return [row for count in (1, CALLERS) for row in fronts_of(bench, callers, processes, count)]


def fronts_of(
    bench: Bench, callers: dict[str, Caller], processes: dict[str, psutil.Process], count: int
) -> list[dict[str, Any]]:
    """Return the rows of one number of callers; `of the best` is against the same on uvloop with nothing in it."""
    sides = {name: lambda m=make, p=processes[name]: cost(m, count, bench.seconds, p) for name, make in callers.items()}
    found = bench.in_turns(sides)
    rates = {name: [rate for rate, _ in turns] for name, turns in found.items()}
    return [
        {
            "front": name,
            "callers": count,
            "rate_per_s": statistics.median(rates[name]),
            "of the best": median_ratio(rates[name], rates["grpc-uvloop" if "grpc" in name.lower() else "asgi-uvloop"]),
            "cpu_ms": statistics.median(seconds for _, seconds in turns) * 1e3,
        }
        for name, turns in found.items()
    ]


def cost(make: Caller, callers: int, seconds: float, process: psutil.Process) -> tuple[float, float]:
    """Return answers a second, and the seconds of the server's core that each took."""
    answered = [0] * callers
    numbers = iter(range(callers))

    def counted() -> Callable[[], Any]:
        call, number = make(), next(numbers)

        def one() -> None:
            call()
            answered[number] += 1

        one.close = getattr(call, "close", None)  # type: ignore[attr-defined]
        return one

    before = cpu_seconds(process)
    found = load(counted, callers, seconds)
    spent = cpu_seconds(process) - before
    if found.failed:
        raise RuntimeError(f"{found.failed} requests failed")
    return found.throughput_per_s, spent / sum(answered)


def cpu_seconds(process: psutil.Process) -> float:
    """Return what a process and its children have had of the cores."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(entry.user + entry.system for entry in times))


def server_of(port: int) -> psutil.Process:
    """Return the process that listens on a port of this machine."""
    listeners = {entry.laddr.port: entry.pid for entry in psutil.net_connections("tcp") if entry.status == "LISTEN"}
    return psutil.Process(listeners[port])


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this process on one core, away from the servers."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def servers(bench: Bench) -> list[dict[str, Any]]:
    """Return throughput and p99 of servers over the same files: replicas of the whole model on both cores, and the split one.

    All are up together and are asked in short turns, so that what the machine does meanwhile meets all of them alike; and all
    are started several times, because a process keeps for life what luck it had with its memory: up to 8 % here.
    """
    return [row for network in bench.networks for row in servers_of(bench, network)]


def servers_of(bench: Bench, network: str) -> list[dict[str, Any]]:
    """Return the rows of one network."""
    python = peers_environment()
    folders = {"whole": bench.package(network, 1), "split": bench.package(network, 2)}
    bounds = {arrangement: by_hand(bench, folder, folders["whole"]) for arrangement, folder in folders.items()}
    found: dict[str, list[Load]] = {}
    for _ in range(STARTS):
        with ExitStack() as stack:
            sides: dict[str, Callable[[], Load]] = {}
            for kind in ("ours", *bench.peers):  # what is divided by each other follows each other
                seconds = bench.seconds * PEERS.get(kind, 1)
                for arrangement, folder in folders.items():
                    if kind == "ours":
                        caller = ours(stack.enter_context(serving(folder)), folder)
                    else:
                        files = [str(stage.model) for stage in read_plan(folder).stages]
                        caller = peer_caller(kind, stack.enter_context(peer(python, kind, files)), folder)
                    sides[f"{arrangement} {kind}"] = lambda c=caller, s=seconds: load(c, CALLERS, s)
            for name, turns in bench.in_turns(sides, -(-bench.rounds // STARTS)).items():
                found.setdefault(name, []).extend(turns)
    rates = {name: [turn.throughput_per_s for turn in turns] for name, turns in found.items()}
    return [
        {
            "network": network,
            "arrangement": arrangement,
            "server": name,
            "rate_per_s": statistics.median(rates[f"{arrangement} {name}"]),
            "ours / it": median_ratio(rates[f"{arrangement} ours"], rates[f"{arrangement} {name}"]),
            "it / its replicas of the whole": median_ratio(rates[f"{arrangement} {name}"], rates[f"whole {name}"]),
            "the parts by hand / the whole": bounds[arrangement],
            "p99_ms": statistics.median(turn.p99_s for turn in found[f"{arrangement} {name}"]) * 1e3,
            "failed": sum(turn.failed for turn in found[f"{arrangement} {name}"]),
        }
        for arrangement in folders
        for name in ("ours", *bench.peers)
    ]


def by_hand(bench: Bench, folder: Path, whole: Path) -> float:
    """Return the speed of a package's stages over that of the whole model, on one thread without any pipeline or server.

    Above it no pipeline gets on the same cores: what ONNX Runtime fuses and in which layout it computes ends at a cut.
    """
    chains = [[(open_session(stage.model), stage) for stage in read_plan(one).stages] for one in (folder, whole)]

    def run(chain: list[Any]) -> None:
        values: dict[str, Any] = {models.INPUT: PHOTO}
        for session, stage in chain:
            results = session.run(list(stage.outputs), {name: values[name] for name in stage.inputs})
            values.update(zip(stage.outputs, results, strict=True))

    ratios, end = [], time.perf_counter() + bench.rounds * bench.seconds
    while time.perf_counter() < end:
        parts, entire = (timed(lambda c=chain: run(c)) for chain in chains)
        ratios.append(entire / parts)
    return statistics.median(ratios)


def ours(url: str, folder: Path) -> Caller:
    """Return a maker of callers of our server."""
    plan = read_plan(folder)
    return lambda: HttpCaller(url, plan, {models.INPUT: PHOTO})


class RawCaller(HttpCaller):
    """Posts the photo's bytes and nothing else."""

    def __init__(self, port: int, path: str) -> None:
        self._connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=60)
        self._path, self._body, self._headers = path, PHOTO.tobytes(), {"Content-Type": "application/octet-stream"}


class Base64Caller(RawCaller):
    """Posts the photo's bytes as base64 in JSON."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(port, path)
        self._body = b'{"photo": "%s"}' % base64.b64encode(PHOTO.tobytes())
        self._headers = {"Content-Type": "application/json"}


def peer_caller(kind: str, port: int, folder: Path) -> Callable[[], Callable[[], Any]]:
    """Return a maker of callers in the most compact form that a server takes."""
    if kind == "kserve":
        plan = read_plan(folder)
        return lambda: HttpCaller(f"http://127.0.0.1:{port}/v2/models/m", plan, {models.INPUT: PHOTO})
    return lambda: (Base64Caller if kind == "litserve" else RawCaller)(port, "/predict")


def grpc_caller(port: int) -> Callable[[], Any]:
    """Return a function that sends the photo over gRPC."""
    import grpc  # noqa: PLC0415

    channel = grpc.insecure_channel(
        f"127.0.0.1:{port}",
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )
    request = MESSAGES["ModelInferRequest"](model_name="m", raw_input_contents=[PHOTO.tobytes()])
    request.inputs.add(name=models.INPUT, datatype="FP32", shape=PHOTO.shape)
    request.outputs.add(name=models.INPUT)
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=MESSAGES["ModelInferRequest"].SerializeToString,
        response_deserializer=MESSAGES["ModelInferResponse"].FromString,
    )
    return lambda: call(request)
