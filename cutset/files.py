"""Whole-file writing: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

from cutset.claims import SUFFIX, is_claimed, remove_abandoned

NAME_LENGTH = 32
"""Characters of a path's name that its temporary neighbour carries; a file system takes no name over 255 bytes."""


def temporary_prefix(path: Path) -> str:
    """Return how the name of a temporary neighbour of `path` begins."""
    return f".{path.name[:NAME_LENGTH]}."


def write_atomic(path: Path, data: bytes) -> Path:
    """Return `path` after its content has become `data`.

    The bytes go to a temporary file in the same folder, which is renamed over `path`; on any failure, Ctrl-C too, the
    temporary file is removed and `path` is as it was.

    Args:
        path: The file to make or replace; missing parent folders are made.
        data: The whole content.

    Raises:
        OSError: If the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent, prefix=temporary_prefix(path))
    while not _written(path, data):
        pass
    return path


def _written(path: Path, data: bytes) -> bool:
    """Write `path` by way of a temporary neighbour; return False if another run took the neighbour for abandoned."""
    prefix = temporary_prefix(path)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile(dir=path.parent, prefix=prefix, suffix=SUFFIX, delete=False))
        temporary = Path(file.name)
        try:
            lock = os.dup(file.fileno())  # the lock lasts until both are closed
            stack.callback(os.close, lock)
            if not is_claimed(lock):
                return False
            file.write(data)
            file.close()
            temporary.chmod(0o644)  # mkstemp makes 0600, which a served model must not keep
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise
    return True


def check_regular(path: Path) -> None:
    """Check that reading `path` ends, as reading a pipe or a device may not.

    Raises:
        OSError: If `path` is missing, a folder, a pipe, a device or a socket.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no file but a pipe, a device or a socket", str(path))


def is_utf8(path: Path) -> bool:
    """Return whether the bytes of a path are UTF-8, which onnxruntime needs of the files that it opens."""
    return not any("\udc80" <= letter <= "\udcff" for letter in str(path))
