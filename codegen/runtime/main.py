"""The command `python -m <package>`: load the package's pipeline and serve it; `bench` measures it, `build` builds engines."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from . import bench
from .allocator import keep_freed_memory
from .arguments import add_knobs, integer, knobs, seconds
from .backends import build_command
from .credentials import read_token
from .errors import ConfigError, PipelineError
from .launcher import Server
from .pipeline import Pipeline
from .samples import read_sample
from .settings import ServerSettings

_INTERRUPTED = 130
_WARM_UP_RUNS = 3  # the first allocates, the second settles ONNX Runtime's memory pattern


def main(argv: Sequence[str] | None = None, folder: str | Path | None = None) -> int:
    """Serve a package until SIGTERM or SIGINT, and return the exit code: 0, 1 with one message on stderr, or 130.

    Prints ``ready: URL`` on stdout once requests are taken, and ``grpc: HOST:PORT`` if gRPC is served.

    Args:
        argv: The arguments; by default the process's.
        folder: The package; by default the one this module lies in.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["build"]:
        return build_command.main(words[1:], Path(folder or Path(__file__).resolve().parent.parent))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    keep_freed_memory()
    try:
        if words[:1] == ["bench"]:
            return bench.main(words[1:], folder)
        return _serve(_parser().parse_args(words), folder)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while the package is loaded: a running server takes the signal itself
        return _INTERRUPTED


def _serve(options: argparse.Namespace, folder: str | Path | None) -> int:
    try:
        settings = _settings(options)
        with Pipeline.load(folder, **knobs(options)) as pipeline:
            sample = read_sample(pipeline.plan, folder)
            if sample is not None:
                for _ in range(_WARM_UP_RUNS):
                    pipeline.run(sample)
            server = Server(pipeline, settings)
            server.run(lambda url: _announce(url, settings.host, server.grpc_port))
    except OSError as error:
        where = f"{options.host}:{options.port}"
        print(f"error: cannot listen on {where}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _announce(url: str, host: str, grpc_port: int | None) -> None:
    print(f"ready: {url}", flush=True)
    if grpc_port is not None:
        print(f"grpc: {host}:{grpc_port}", flush=True)


def _settings(options: argparse.Namespace) -> ServerSettings:
    if options.access_log:
        logging.getLogger("cutset.access").setLevel(logging.INFO)
    return ServerSettings(
        host=options.host,
        port=options.port,
        grpc_port=options.grpc_port,
        grace_s=options.grace,
        max_body_bytes=options.max_body_mb * 2**20,
        max_json_bytes=options.max_json_mb * 2**20,
        max_held_bytes=_held_bytes(options.max_held_mb, options.max_body_mb),
        max_requests=options.max_requests,
        tls_certificate=options.tls_cert,
        tls_key=options.tls_key,
        token=None if options.token_file is None else read_token(options.token_file),
        access_log=options.access_log,
    )


def _held_bytes(held_mb: int | None, body_mb: int) -> int | None:
    if held_mb is None:
        return None
    if held_mb < body_mb:
        raise ConfigError(
            f"--max-held-mb {held_mb} is less than one request may have", hint=f"lower --max-body-mb, which is {body_mb}"
        )
    return held_mb * 2**20


def _parser() -> argparse.ArgumentParser:
    package = __name__.split(".", maxsplit=1)[0]
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}",
        description="Serve the model with the Open Inference Protocol v2.",
        epilog=f"`python -m {package} bench --help`: measure the pipeline, or a server; `build --help`: build its engines.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=integer(0, 65535), default=8000, help="port of HTTP; 0 takes a free one")
    parser.add_argument("--grpc-port", type=integer(0, 65535), help="port of gRPC, which is not served without one")
    parser.add_argument("--grace", type=seconds, default=10.0, help="seconds to finish the requests under way")
    parser.add_argument("--max-body-mb", type=integer(1, 2**20), default=256, help="largest request in MiB; above it 413")
    parser.add_argument("--max-json-mb", type=integer(1, 2**20), default=64, help="longest JSON in MiB; above it 413")
    parser.add_argument(
        "--max-held-mb",
        type=integer(1, 2**20),
        help="all requests and answers at once in MiB; above it 503 (default: a quarter of the memory, at least --max-body-mb)",
    )
    parser.add_argument("--max-requests", type=integer(1, 10**6), default=1024, help="most inferences under way; above it 429")
    parser.add_argument("--tls-cert", type=Path, help="PEM file of the certificate: serve over TLS")
    parser.add_argument("--tls-key", type=Path, help="PEM file of its private key")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token that every request must carry")
    parser.add_argument("--access-log", action="store_true", help="write a line of JSON a request to stderr")
    add_knobs(parser)
    return parser
