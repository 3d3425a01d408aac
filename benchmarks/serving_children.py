"""Servers as children of a benchmark: ours, bare fronts, and other servers in an environment of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / "build" / "peers"
PEER_PACKAGES = ("litserve", "fastapi", "uvicorn", "httptools", "uvloop", "granian", "kserve", "onnxruntime", "numpy")
SERVE = "import sys; from cutset.codegen.runtime.main import main; sys.exit(main(sys.argv[2:], sys.argv[1]))"


@contextmanager
def started(
    words: list[str], *, core: int | None = None, piped: bool = False, errors: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Yield a child that is killed at the end; what it writes to stderr goes to the file `errors`, if one is given."""
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    environment_ = {**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONWARNINGS": "ignore"}
    command = [*pinned, *words]
    options: dict[str, Any] = {"stdout": subprocess.PIPE if piped else subprocess.DEVNULL}
    with (
        (errors or Path(os.devnull)).open("wb") as stderr,
        subprocess.Popen(command, text=True, env=environment_, start_new_session=True, stderr=stderr, **options) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # workers that a server left behind


@contextmanager
def serving(folder: Path, *options: str, core: int | None = None) -> Iterator[str]:
    """Yield the URL of our server."""
    with started([sys.executable, "-c", SERVE, str(folder), "--port", "0", *options], core=core, piped=True) as process:
        yield ready_url(process)


@contextmanager
def serving_with_stand_in(folder: Path) -> Iterator[str]:
    """Yield the URL of our server, where a worker of its own stands in for the GPU."""
    with started([sys.executable, "-m", "benchmarks.serving_standin", str(folder)], piped=True) as process:
        yield ready_url(process)


def ready_url(process: subprocess.Popen[str]) -> str:
    """Return what a server of ours says when it is ready."""
    assert process.stdout is not None
    return process.stdout.readline().removeprefix("ready: ").strip()


@contextmanager
def front(kind: str) -> Iterator[int]:
    """Yield the port of a bare front on one core."""
    port = free_port()
    python = sys.executable if kind.startswith("grpc") else str(peers_environment())
    with started([python, str(HERE / "fronts.py"), kind, str(port)], core=0):
        await_port(port)
        yield port


@contextmanager
def peer(python: Path, kind: str, files: list[str]) -> Iterator[int]:
    """Yield the port of another server."""
    port = free_port()
    script = ["serving_litserve.py"] if kind == "litserve" else ["serving_peers.py", kind]
    with started([str(python), str(HERE / script[0]), *script[1:], str(port), *files]):
        await_port(port, "/v2/health/ready" if kind == "kserve" else "/health" if kind == "litserve" else None)
        yield port


def await_port(port: int, path: str | None = None, timeout_s: float = 60.0) -> None:
    """Return when the port takes connections and the path answers."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            if path:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
            else:
                socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def peers_environment() -> Path:
    """Return the Python that holds the other servers, installing them on the first call."""
    python = PEERS / "bin" / "python"
    complete = PEERS / f"complete-{len(PEER_PACKAGES)}"
    if not complete.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PEER_PACKAGES], check=True)
        complete.touch()
    return python
