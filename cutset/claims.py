"""Temporary files and folders whose owner holds a lock, so that a later run removes those of a killed one.

A lock of the system ends with its process, however that ends; a process number in a file would outlive its process and
name another one later.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without such locks: nothing is claimed and nothing swept
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial"
"""How the names of temporary files and folders end."""
OWNER = "owner.lock"
"""File in a temporary folder that the owner of the folder locks; holds the name of what the folder is to replace."""
ASIDE = "old"
"""In a temporary folder, what the owner has moved aside and not replaced yet."""
TEMPORARY = "cutset-"
"""How the name of a run's folder for temporary files begins."""
_DRAWN = re.compile(rf".*[a-z0-9_]{{8}}{re.escape(SUFFIX)}", re.DOTALL)


@contextlib.contextmanager
def claimed_folder(parent: Path, *, prefix: str, replaces: str = "") -> Iterator[Path]:
    """Yield a new folder in `parent` that belongs to this process, and remove the folder at the end.

    Args:
        parent: An existing folder.
        prefix: How the name of the new folder begins.
        replaces: Name in `parent` whose content this process may move to `ASIDE`; comes back if this process is killed then.
    """
    folder, lock = _claim(parent, prefix)
    try:
        os.write(lock, os.fsencode(replaces))
        yield folder
    finally:
        try:
            remove_tree(folder)
        finally:
            os.close(lock)


def _claim(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=SUFFIX, dir=parent))
        lock = os.open(folder / OWNER, os.O_CREAT | os.O_RDWR, 0o600)
        if is_claimed(lock):
            return folder, lock
        os.close(lock)


def is_claimed(lock: int) -> bool:
    """Lock an open file of this process; return False if a sweeper removed the file before."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks: a sweeper cannot lock there either
            fcntl.flock(lock, fcntl.LOCK_EX)
    return os.fstat(lock).st_nlink > 0


def remove_abandoned(parent: Path, *, prefix: str) -> None:
    """Remove the claimed files and folders in `parent` whose owners are gone.

    Args:
        parent: Where to look; what cannot be read or removed is left.
        prefix: How the names begin.
    """
    with contextlib.suppress(OSError):
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            if entry.name.startswith(prefix) and _DRAWN.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(entry)


def _remove_if_abandoned(entry: os.DirEntry[str]) -> None:
    """Remove what nobody holds the lock of; what belongs to another user, or was never claimed, is left."""
    path = Path(entry.path)
    is_folder = entry.is_dir(follow_symlinks=False)
    if fcntl is None or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
        return
    lock = os.open(path / OWNER if is_folder else path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_folder:
            _bring_back(path, os.fsdecode(os.read(lock, 4096)))
            remove_tree(path)
        else:
            path.unlink()
    finally:
        os.close(lock)


def _bring_back(folder: Path, name: str) -> None:
    """Give what a killed run had moved aside its name again, unless something else has the name by now."""
    aside, place = folder / ASIDE, folder.with_name(name or ASIDE)
    if name and aside.exists() and not place.exists():
        aside.rename(place)


def remove_tree(folder: Path) -> None:
    """Remove a folder, to its end even when Ctrl-C comes meanwhile."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Put the temporary files of this process into one claimed folder, after removing the folders of killed runs.

    Where no folder can be made, temporary files go where they would have gone.
    """
    before = tempfile.tempdir
    parent = Path(tempfile.gettempdir())
    remove_abandoned(parent, prefix=TEMPORARY)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(claimed_folder(parent, prefix=TEMPORARY))
        except OSError:
            yield
            return
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before
