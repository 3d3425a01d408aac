"""Exported samples, and the servers of the engines that run them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.harness import load_inputs, whole_model
from tools import engines

EVERY_EXPORT = "triton,ray,k8s,ort"
SAMPLES = ("classifier-quarter", "detector", "tagger", "orientation-jpeg")
"""Plain, of outputs whose size the data decides, of strings, and of a custom operator."""
PATIENCE_S = 240
"""An engine starts a dozen processes, each of which imports for seconds: on a busy machine that takes minutes."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A sample and its output folder."""

    name: str
    model: Path
    folder: Path

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return load_inputs(self.model)

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        """What the whole model answers."""
        return whole_model(self.model, self.inputs)


def require(engine: str) -> None:
    """Skip the test where an engine's environment was not made."""
    reason = engines.missing(engine)
    if reason:
        pytest.skip(reason)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a server's process; it is told to stop at the end, and must."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
            raise


def wait_ready(url: str, process: subprocess.Popen[Any], log: Path) -> None:
    """Wait until a server answers its health check with 200; fail with its log if it ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    pytest.fail(f"the server did not become ready: {log.read_text(errors='replace')[-4000:]}")


@dataclass(frozen=True, kw_only=True)
class Triton:
    """A running Triton."""

    pid: int
    http: str
    grpc: str


@contextlib.contextmanager
def ray_serve(config: Path, paths: Sequence[Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a Ray node of eight CPUs and four GPUs that it does not have, told to run the applications of a serve.yaml."""
    environment = engines.ray_environment(paths)
    ports = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        head = engines.ray_head(Path(temporary), cpus=8, gpus=4, ports=ports)
        with running(head, environment, log) as process:
            wait_ready(f"http://127.0.0.1:{ports[1]}/api/version", process, log)
            deploy = engines.serve_deploy(config, ports[1])
            subprocess.run(deploy, env=environment, check=True, capture_output=True, timeout=PATIENCE_S)
            yield process


@contextlib.contextmanager
def triton_server(repositories: Sequence[Path], log: Path) -> Iterator[Triton]:
    """Yield Triton over some repositories."""
    http, grpc = free_ports(2)
    command, environment = engines.triton_command(repositories, http=http, grpc=grpc)
    with running(command, environment, log) as process:
        wait_ready(f"http://127.0.0.1:{http}/v2/health/ready", process, log)
        yield Triton(pid=process.pid, http=f"127.0.0.1:{http}", grpc=f"127.0.0.1:{grpc}")
