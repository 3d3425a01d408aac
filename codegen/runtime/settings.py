"""How a server listens and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .credentials import check_tls


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of the HTTP and the gRPC server.

    Args:
        host: Address to listen on.
        port: Port of HTTP; 0 takes a free one.
        grpc_port: Port of gRPC; 0 takes a free one, None serves no gRPC.
        grace_s: Seconds the requests under way have to finish after the signal to stop.
        max_body_bytes: Largest request, compressed and decompressed; above it 413.
        max_json_bytes: Longest JSON part of a request or an answer; above it 413, and 400 for an answer.
        max_held_bytes: Most bytes of all requests and answers at once; above it 503. By default a quarter of the memory that
            the process may use, at least `max_body_bytes`.
        max_requests: Most inferences between their first byte and their answer; above it 429.
        head_timeout_s: Seconds a client has for the head of a request.
        body_timeout_s: Seconds it has for the body; after them 408.
        tls_certificate: PEM file of the certificate chain; None serves plain text.
        tls_key: PEM file of its private key.
        token: What ``Authorization: Bearer`` must carry; None asks for nothing. Health is open to all.
        access_log: Whether to log a line of JSON a request.

    Raises:
        ConfigError: If the certificate and the key cannot be served with; the error names the file.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    grace_s: float = 10.0
    max_body_bytes: int = 256 * 2**20
    max_json_bytes: int = 64 * 2**20
    max_held_bytes: int | None = None
    max_requests: int = 1024
    head_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    token: str | None = None
    access_log: bool = False

    def __post_init__(self) -> None:
        check_tls(self.tls_certificate, self.tls_key)
