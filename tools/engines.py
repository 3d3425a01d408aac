"""Make, once, the virtual environments of the engines that the exports are tested on and measured against.

usage: python tools/engines.py [triton] [ray] [perf-analyzer] [litserve]

Their pins do not go together with each other's or with the development environment's. They lie in the user's cache folder
under a digest of the pins, so later runs and other checkouts find them there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import platformdirs

PINS = {
    # The one wheel with a tritonserver inside. With numpy 2, its Python backend answers with empty tensors.
    "triton": ("nvidia-pytriton==0.7.0", "numpy<2", "onnxruntime", "onnxruntime-extensions"),
    "ray": ("ray[serve]==2.60.0", "onnxruntime", "onnxruntime-extensions", "httptools", "prometheus-client"),
    # NVIDIA's load generator: the last wheel whose binary runs on glibc 2.36; it wants CUDA's runtime and needs no GPU.
    "perf-analyzer": ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12"),
    "litserve": ("litserve==0.2.19", "onnxruntime"),
}
TESTED = ("triton", "ray", "perf-analyzer")
"""What the tests need; the rest is for the benchmark."""
DONE = "complete"


def folder(engine: str) -> Path:
    """Return where the environment of an engine lies, or will."""
    pins = "\n".join([sys.version, *PINS[engine]])
    return platformdirs.user_cache_path("cutset-engines") / f"{engine}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"


def missing(engine: str) -> str | None:
    """Return what to say where an environment is not there; None where it is."""
    return None if (folder(engine) / DONE).is_file() else f"no {engine} here; `python tools/engines.py {engine}` installs it"


def make(engine: str) -> Path:
    """Return the environment of an engine, made if it is not there."""
    place = folder(engine)
    if missing(engine):
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PINS[engine]], check=True)  # noqa: S603 - our own pins
        if engine == "triton":
            _place_backend(place)
        if engine == "perf-analyzer":
            _place_base64(place)
        (place / DONE).touch()
    return place


def triton_command(repositories: Sequence[Path], *, http: int, grpc: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that serves model repositories on this machine's loopback, without a GPU, and its environment."""
    place = folder("triton")
    site = _site(place)
    options = {
        "backend-directory": place / "backends", "exit-timeout-secs": 5,
        "http-address": "127.0.0.1", "http-port": http, "grpc-address": "127.0.0.1", "grpc-port": grpc,
        "allow-metrics": "false",
    }  # fmt: skip
    command = [str(site / "pytriton" / "tritonserver" / "bin" / "tritonserver"), "--disable-auto-complete-config"]
    command += [f"--{name}={value}" for name, value in options.items()]
    command += [f"--model-repository={repository}" for repository in repositories]
    # Without the wheel's own libraries the server waits at "loading" for ever and says nothing.
    libraries = os.pathsep.join(map(str, [site / "nvidia_pytriton.libs", *_python_libraries()]))
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    return command, kept | {"PATH": path, "VIRTUAL_ENV": str(place), "LD_LIBRARY_PATH": libraries}


def ray_head(temporary: Path, *, cpus: int, gpus: int, ports: Sequence[int]) -> list[str]:
    """Return the command of a Ray node of this machine alone, with as many CPUs and GPUs as it is told to believe in.

    Args:
        temporary: Where it puts its sockets; a short path, for those have at most 107 bytes.
        cpus: CPUs to share out.
        gpus: GPUs to share out.
        ports: Free ones: of the node, the dashboard (which takes deployments), its agent and Ray's client.
    """
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    options = {
        "node-ip-address": "127.0.0.1", "dashboard-host": "127.0.0.1", "num-cpus": cpus, "num-gpus": gpus,
        "object-store-memory": 300_000_000, "temp-dir": temporary, **dict(zip(names, ports, strict=True)),
    }  # fmt: skip
    return [str(folder("ray") / "bin" / "ray"), "start", "--head", "--block", *(f"--{k}={v}" for k, v in options.items())]


def serve_deploy(config: Path, dashboard: int) -> list[str]:
    """Return the command that sends an application to the node whose dashboard listens on a port."""
    return [str(folder("ray") / "bin" / "serve"), "deploy", str(config), "--address", f"http://127.0.0.1:{dashboard}"]


def ray_environment(paths: Sequence[Path]) -> dict[str, str]:
    """Return the environment of both: what is importable, no token, no statistics sent, no wait of half a minute at the end."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    path = f"{folder('ray') / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return kept | settings | {"PATH": path, "PYTHONPATH": os.pathsep.join(map(str, paths))}


def perf_analyzer(*words: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of NVIDIA's load generator, and its environment."""
    place = folder("perf-analyzer")
    libraries = [_site(place) / "nvidia" / "cuda_runtime" / "lib", *place.glob("debian/usr/lib/*")]
    return [str(place / "bin" / "perf_analyzer"), *words], os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))
    }


def _place_base64(place: Path) -> None:
    """Put the one library that no wheel has beside the others: Debian's package, unpacked and not installed."""
    unpacked = place / "debian"
    unpacked.mkdir()

    def run(*words: str, check: bool = True) -> int:
        return subprocess.run(words, cwd=unpacked, check=check, capture_output=not check).returncode  # noqa: S603 - fixed words

    download = ("apt-get", "download", "--quiet", "--quiet", "libb64-0d")
    if run(*download, check=False):
        run("apt-get", "update", "--quiet", "--quiet")
        run(*download)
    (package,) = unpacked.glob("*.deb")
    run("dpkg-deb", "--extract", str(package), str(unpacked))


def _place_backend(place: Path) -> None:
    """Put the Python backend and its stub for this Python together; the wheel holds them apart."""
    wheel = _site(place) / "pytriton" / "tritonserver"
    shutil.copytree(wheel / "backends", place / "backends")
    stubs = wheel / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    for file in stubs.iterdir():
        shutil.copy2(file, place / "backends" / "python" / file.name)


def _site(place: Path) -> Path:
    (site,) = place.glob("lib/python*/site-packages")
    return site


def _python_libraries() -> list[Path]:
    """Return the folder of libpython, which the stub needs where Python lies outside the system's folders."""
    library = Path(sys.base_prefix) / "lib"
    return [library] if list(library.glob("libpython3*.so*")) else []


def main() -> int:
    """Make the environments named; without a name, those that the tests need."""
    for engine in sys.argv[1:] or TESTED:
        print(make(engine), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
