"""SHA-256 digests of files and of plain values."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cutset.files import check_regular


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the file at `path`, read in pieces.

    Raises:
        OSError: If `path` cannot be read, or is a pipe or a device.
    """
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the digest of a JSON-compatible value; the same value gives the same digest in every process."""
    return sha256_bytes(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
