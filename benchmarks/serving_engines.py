"""The same split and the same requests on every engine: throughput, latency, CPU time and memory, side by side.

usage: python benchmarks/serving_engines.py [-o FILE.json] [--markdown] [--clients N] [--seconds S] [--only NAME ...]

Needs `python tools/engines.py triton ray litserve`. The model is the classifier sample a quarter as wide, split for a T4
whose costs are modelled; the GPU stage runs on the CPU, so that what differs is the engine. Clients are threads of one
process on the same cores.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tritonclient.http
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cutset.sample_models import classifier  # noqa: E402
from tests.e2e.exports import free_ports, ray_serve, running, triton_server, wait_ready  # noqa: E402
from tools import engines  # noqa: E402

HAND = ROOT / "benchmarks" / "hand_written"
NAME = "classifier"
WARM_UP_S = 2.0
WINDOWS = 4
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client sends, again and again, and how to read the class from the answer."""

    port: int
    path: str
    body: bytes
    headers: Mapping[str, str]
    read: Callable[[http.client.HTTPResponse, bytes], Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """The split model on disk, and the sample."""

    folder: Path
    log: Path
    inputs: dict[str, np.ndarray]

    @property
    def package(self) -> Path:
        """The serving package."""
        return self.folder / "serving" / f"{NAME}_serving"

    @property
    def stages(self) -> Path:
        """Where its ONNX files are."""
        return self.package / "stages"


Started = Iterator[tuple[psutil.Process, Request]]


def v2_request(case: Case, port: int, prefix: str = "") -> Request:
    """Return the request of the Open Inference Protocol, tensors as raw bytes."""
    tensors = []
    for name, array in case.inputs.items():
        tensors.append(tritonclient.http.InferInput(name, list(array.shape), "UINT8"))
        tensors[-1].set_data_from_numpy(array)
    outputs = [tritonclient.http.InferRequestedOutput("classes", binary_data=True)]
    body, length = tritonclient.http.InferenceServerClient.generate_request_body(tensors, outputs=outputs)

    def read(response: http.client.HTTPResponse, data: bytes) -> Any:
        size = int(response.headers["Inference-Header-Content-Length"])
        return tritonclient.http.InferenceServerClient.parse_response_body(data, header_length=size).as_numpy("classes")

    headers = {"Inference-Header-Content-Length": str(length)}
    return Request(port=port, path=f"{prefix}/v2/models/{NAME}/infer", body=body, headers=headers, read=read)


def _classes(_response: http.client.HTTPResponse, data: bytes) -> Any:
    return np.array(json.loads(data)["classes"])


@contextlib.contextmanager
def ours(case: Case) -> Started:
    """Yield the process of the serving package."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", case.package.name, "--port", str(port)]
    with running(command, {**os.environ, "PYTHONPATH": str(case.folder / "serving")}, case.log) as process:
        wait_ready(f"http://127.0.0.1:{port}/v2/health/ready", process, case.log)
        yield psutil.Process(process.pid), v2_request(case, port)


@contextlib.contextmanager
def triton(case: Case, repository: Path | None = None) -> Started:
    """Yield Triton over the emitted repository, or another."""
    with triton_server([repository or case.folder / "triton" / "model_repository"], case.log) as server:
        yield psutil.Process(server.pid), v2_request(case, int(server.http.rpartition(":")[2]))


@contextlib.contextmanager
def triton_by_hand(case: Case) -> Started:
    """The emitted configuration with a model.py that one writes by hand."""
    repository = case.log.parent / "hand_triton"
    shutil.copytree(case.folder / "triton" / "model_repository", repository)
    for model in repository.glob("*/1/model.py"):
        shutil.copyfile(HAND / "triton_model.py", model)
    with triton(case, repository) as started:
        yield started


@contextlib.contextmanager
def ray(case: Case) -> Started:
    """Yield Ray Serve with the emitted application."""
    (port,) = free_ports(1)
    config = yaml.safe_load((case.folder / "ray" / "serve.yaml").read_text("utf-8"))
    config["http_options"]["port"] = port
    file = case.log.parent / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    with ray_serve(file, [case.folder / "ray", case.folder / "serving"], case.log) as process:
        wait_ready(f"http://127.0.0.1:{port}/v2/health/ready", process, case.log)
        yield psutil.Process(process.pid), v2_request(case, port)


@contextlib.contextmanager
def ray_by_hand(case: Case) -> Started:
    """Yield Ray Serve with an application that one writes by hand."""
    (port,) = free_ports(1)
    application = {"name": "hand", "route_prefix": "/", "import_path": "ray_app:build", "args": {}}
    application["runtime_env"] = {"env_vars": {"STAGES": str(case.stages)}}
    options = {"host": "127.0.0.1", "port": port}
    logging = {"enable_access_log": False}
    file = case.log.parent / "hand.yaml"
    file.write_text(yaml.safe_dump({"http_options": options, "logging_config": logging, "applications": [application]}))
    ((name, image),) = case.inputs.items()
    headers = {"x-name": name, "x-shape": json.dumps(image.shape)}
    with ray_serve(file, [HAND], case.log) as process:
        request = Request(port=port, path="/", body=image.tobytes(), headers=headers, read=_classes)
        _wait_answer(request)
        yield psutil.Process(process.pid), request


@contextlib.contextmanager
def litserve(case: Case) -> Started:
    """Yield LitServe with as many workers as there are cores, each of which runs both parts."""
    (port,) = free_ports(1)
    command = [
        str(engines.folder("litserve") / "bin" / "python"),
        str(HAND / "litserve_app.py"),
        str(port),
        str(os.cpu_count()),
    ]
    ((name, image),) = case.inputs.items()
    body = json.dumps({"name": name, "shape": image.shape, "data": base64.b64encode(image.tobytes()).decode()}).encode()
    with running(command, {**os.environ, "STAGES": str(case.stages)}, case.log) as process:
        wait_ready(f"http://127.0.0.1:{port}/health", process, case.log)
        headers = {"Content-Type": "application/json"}
        yield psutil.Process(process.pid), Request(port=port, path="/predict", body=body, headers=headers, read=_classes)


ENGINES: dict[str, Callable[[Case], Any]] = {
    "serving package": ours,
    "Triton, emitted": triton,
    "Triton, by hand": triton_by_hand,
    "LitServe, both parts in one API": litserve,
    "Ray Serve, emitted": ray,
    "Ray Serve, by hand": ray_by_hand,
}


def _wait_answer(request: Request, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            _ask(http.client.HTTPConnection("127.0.0.1", request.port, timeout=60), request)
        except (OSError, RuntimeError, http.client.HTTPException):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def _ask(connection: http.client.HTTPConnection, request: Request) -> Any:
    connection.request("POST", request.path, body=request.body, headers=dict(request.headers))
    response = connection.getresponse()
    data = response.read()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {data[:300]!r}")
    return request.read(response, data)


def load(request: Request, clients: int, seconds: float) -> list[float]:
    """Return the latency of every request that clients which wait for their answers get done in so many seconds."""
    latencies: list[float] = []
    errors: list[BaseException] = []
    end = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", request.port, timeout=60)
        try:
            while time.perf_counter() < end:
                begin = time.perf_counter()
                _ask(connection, request)
                latencies.append(time.perf_counter() - begin)
        except BaseException as error:  # shown to the user, who would get too small a number otherwise
            errors.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return latencies


def _used(process: psutil.Process) -> tuple[float, float]:
    """Return CPU seconds and proportional memory in MiB of a process and all below it."""
    cpu = memory = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            cpu += times.user + times.system
            memory += one.memory_full_info().pss / MIB
    return cpu, memory


def _end(left: Sequence[psutil.Process]) -> None:
    """End the workers that an engine leaves behind when it is told to stop, as LitServe does."""
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def measure(name: str, case: Case, expected: np.ndarray, clients: int, seconds: float) -> dict[str, Any]:
    """Return what one engine does."""
    begin = time.perf_counter()
    with ENGINES[name](case) as (process, request):
        found = _ask(http.client.HTTPConnection("127.0.0.1", request.port, timeout=60), request)
        start_s = time.perf_counter() - begin
        np.testing.assert_array_equal(np.asarray(found), expected)
        load(request, clients, WARM_UP_S)
        before, _ = _used(process)
        windows = [load(request, clients, seconds / WINDOWS) for _ in range(WINDOWS)]
        after, memory = _used(process)
        family = process.children(recursive=True)
    _end(family)
    done = sum(map(len, windows))
    latencies = sorted(max(windows, key=len))  # the window that other work on the machine disturbed least
    count = len(latencies)
    return {
        "engine": name, "requests": done, "throughput_per_s": count * WINDOWS / seconds, "p50_s": latencies[count // 2],
        "p99_s": latencies[min(count - 1, int(0.99 * count))], "cpu_s_a_request": (after - before) / done,
        "memory_mib": memory, "start_s": start_s,
    }  # fmt: skip


def prepare(folder: Path) -> tuple[Case, np.ndarray]:
    """Split the model, and return it with the classes that the serving package's own pipeline names."""
    model = folder / f"{NAME}.onnx"
    model.write_bytes(classifier.build(seed=0, width=0.25).SerializeToString())
    inputs = classifier.sample_inputs(seed=0)
    np.savez(model.with_suffix(".npz"), **inputs)
    words = ["partition", str(model), "-o", str(folder / "out"), "--target", "t4", "--profile-seconds", "0.3", "-q"]
    words += ["--cpu-workers", str(os.cpu_count()), "--emit", "triton,ray"]
    subprocess.run([sys.executable, "-m", "cutset", *words], check=True, stdout=subprocess.DEVNULL)
    import onnxruntime  # noqa: PLC0415 - after the split, which is measured in its own process

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["classes"], inputs)
    return Case(folder=folder / "out", log=folder / "log", inputs=inputs), expected


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of docs/deploy.md."""
    lines = ["| engine | requests/s | p50 | p99 | CPU a request | memory | start |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['engine']} | {row['throughput_per_s']:.0f} | {1e3 * row['p50_s']:.0f} ms | {1e3 * row['p99_s']:.0f} ms "
        f"| {1e3 * row['cpu_s_a_request']:.1f} ms | {row['memory_mib']:.0f} MiB | {row['start_s']:.1f} s |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure the engines one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", nargs="*", choices=ENGINES, default=list(ENGINES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serving-engines-") as folder:
        case, expected = prepare(Path(folder))
        rows = []
        for name in options.only:
            rows.append(measure(name, case, expected, options.clients, options.seconds))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    environment = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "clients": options.clients,
        "pins": engines.PINS,
    }
    document = {"schema": "cutset.benchmark/1", "environment": environment, "engines": rows}
    if options.output:
        options.output.write_text(json.dumps(document, indent=1))
    print(markdown(rows) if options.markdown else json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
