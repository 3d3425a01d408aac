"""Write a folder whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cutset.errors import CutsetError, UsageError
from cutset.files import temporary_prefix


def check_target(target: Path, *, force: bool) -> None:
    """Check, before any work, that `target` can be made.

    Raises:
        UsageError: If it exists and `force` is not set, or is no folder.
        CutsetError: If its parent cannot be written.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target} exists and is not a folder", hint="give another path with -o")
    if target.is_dir() and any(target.iterdir()):
        if not force:
            raise UsageError(f"{target} already exists", hint="give another path with -o, or replace it with --force")
        if not _is_ours(target):
            raise UsageError(
                f"{target} was not written by cutset and will not be replaced",
                hint="remove it yourself, or give another path",
            )
    parent = _existing(target.absolute().parent)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise CutsetError(f"cannot write into {parent}", hint="give a path that you may write to with -o")


def _is_ours(folder: Path) -> bool:
    """Whether the manifest in a folder is one of ours; much other software has a file of that name."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and str(manifest.get("schema")).startswith("cutset.manifest/")


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


@contextlib.contextmanager
def new_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside `target` that becomes `target` when the block ends without an error.

    Whatever ends the block early (an error, a full disk, Ctrl-C) removes it and leaves an existing `target` untouched.
    """
    check_target(target, force=force)
    target = target.absolute()
    made = [folder for folder in [target.parent, *target.parent.parents] if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=temporary_prefix(target), suffix=".partial", dir=target.parent))
    try:
        new = work / "new"
        new.mkdir()
        yield new
        _replace(new, target, work / "old")
    except BaseException:
        _remove(work)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    _remove(work)


def _replace(new: Path, target: Path, old: Path) -> None:
    """Put `new` in the place of `target`, whose content becomes `old`, or leave `target` as it was."""
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise


def _remove(folder: Path) -> None:
    """Remove a folder, to its end even when Ctrl-C comes meanwhile."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
