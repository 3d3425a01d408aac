"""Measured costs on disk, so that the same model on the same machine is measured once.

One SQLite file in write-ahead mode: readers and writers of several processes do not disturb each other, and a killed
writer leaves the last whole entry.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from pathlib import Path
from typing import Any

import platformdirs

from cutset.advisory import advisory
from cutset.digest import sha256_bytes, sha256_json
from cutset.errors import CutsetError

logger = logging.getLogger(__name__)

METHOD = 15
"""Part of the keys: raise it when what is measured or modelled changes, so that no older number is taken for a new one."""

_SCHEMA = """CREATE TABLE IF NOT EXISTS entries
(key TEXT PRIMARY KEY, value TEXT NOT NULL, digest TEXT NOT NULL, made TEXT DEFAULT CURRENT_TIMESTAMP)"""

_TRIES, _PAUSE_S = 100, 0.05


def default_folder() -> Path:
    """Return the user's cache folder for Cutset."""
    return Path(platformdirs.user_cache_dir("cutset"))


class CostCache:
    """Stores JSON values under the digest of a JSON key. A cache that cannot be used is silent: measuring still works.

    Args:
        folder: Where the file lies; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.file = folder / "costs.sqlite" if folder is not None else None

    @property
    def timing_cache(self) -> Path | None:
        """File in which TensorRT keeps what it measured of kernels, for engines that are timed and for those deployed."""
        return None if self.file is None else self.file.with_name("tensorrt-timing.cache")

    def get(self, key: Any) -> Any | None:
        """Return the stored value, or None."""
        with advisory("reading the cost cache"):
            return self._read(key)
        return None

    def put(self, key: Any, value: Any) -> None:
        """Store `value` under `key`, replacing what was there."""
        if self.file is None:
            return
        with advisory("writing the cost cache"):
            with contextlib.suppress(OSError):
                self.file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(value)
            row = (sha256_json(key), text, sha256_bytes(text.encode()))
            self._do("INSERT OR REPLACE INTO entries (key, value, digest) VALUES (?, ?, ?)", row)

    def _read(self, key: Any) -> Any | None:
        """Return the stored value, or None.

        Raises:
            CutsetError: If the entry is not what was put there; such an entry is dropped.
        """
        if not self._exists():
            return None
        name = sha256_json(key)
        row = self._do("SELECT CAST(value AS BLOB), CAST(digest AS BLOB) FROM entries WHERE key = ?", (name,))
        if row is None:
            return None
        text, digest = row
        if sha256_bytes(text).encode() != digest:
            self._do("DELETE FROM entries WHERE key = ?", (name,))
            logger.warning("the cost cache %s held a damaged entry, %s", self.file, name)
            raise CutsetError(f"a damaged entry of {self.file}, {name[:12]}, was dropped, and is measured anew")
        return json.loads(text)

    def _exists(self) -> bool:
        try:
            return self.file is not None and self.file.exists()
        except OSError as error:
            logger.warning("the cost cache %s cannot be used: %s", self.file, error)
            return False

    def _do(self, statement: str, arguments: tuple[str, ...]) -> Any:
        """Run one statement in a transaction of its own and return its first row."""
        try:
            with contextlib.closing(sqlite3.connect(str(self.file), timeout=10)) as connection:
                _write_ahead(connection)
                connection.execute(_SCHEMA)
                with connection:
                    return connection.execute(statement, arguments).fetchone()
        except sqlite3.Error as error:
            logger.warning("the cost cache %s cannot be used: %s", self.file, error)
            return None


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch a database to write-ahead mode, which the first of several processes does alone.

    SQLite answers the others "locked" at once and does not wait for its timeout, so this waits.
    """
    for attempt in range(_TRIES):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or attempt == _TRIES - 1:
                raise
            time.sleep(_PAUSE_S)
        else:
            return
