"""Certificates and private keys, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def make_certificate(place: Path, name: str = "server", kind: str = "ec") -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.1 and its key of a kind, ``ec`` or ``rsa`` (too small to be served with), in `place`."""
    cert, key = place / f"{name}.cert.pem", place / f"{name}.key.pem"
    words = [
        "req",
        "-x509",
        "-newkey",
        *(("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1") if kind == "ec" else ("rsa:1024",)),
    ]
    words += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    openssl(*words, "-keyout", str(key), "-out", str(cert))
    return cert, key


def openssl(*words: str) -> None:
    """Run openssl, or skip the test where there is none."""
    try:
        subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("openssl is not installed, so no certificate can be made")
