"""Write a folder whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from cutset.claims import ASIDE, claimed_folder, remove_abandoned
from cutset.errors import CutsetError, UsageError
from cutset.files import is_utf8, temporary_prefix

TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
"""What a rename of a folder says where something lies already."""


def check_target(target: Path, *, force: bool) -> None:
    """Check, before any work, that `target` can be made; what killed runs left beside it is removed or brought back first.

    Raises:
        UsageError: If it exists and `force` is not set, or is no folder.
        CutsetError: If its parent cannot be written.
    """
    if not is_utf8(target.absolute()):
        raise UsageError(
            f"the path {target} is not UTF-8", cause="onnxruntime opens no such files", hint="give another with -o"
        )
    remove_abandoned(target.absolute().parent, prefix=".")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target} exists and is not a folder", hint="give another path with -o")
    if target.is_dir() and any(target.iterdir()):
        if not force:
            raise UsageError(f"{target} already exists", hint="give another path with -o, or replace it with --force")
        _check_ours(target, target)
    parent = _existing(target.absolute().parent)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise CutsetError(f"cannot write into {parent}", hint="give a path that you may write to with -o")


def _check_ours(folder: Path, target: Path) -> None:
    if not _is_ours(folder):
        raise UsageError(
            f"{target} was not written by cutset and will not be replaced",
            hint="remove it yourself, or give another path",
        )


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

    Raises:
        UsageError: As `check_target`, at the end too: what came to lie at `target` meanwhile is kept.
    """
    check_target(target, force=force)
    target = target.absolute()
    made = [folder for folder in [target.parent, *target.parent.parents] if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with claimed_folder(target.parent, prefix=temporary_prefix(target), replaces=target.name) as work:
            new = work / "new"
            new.mkdir()
            yield new
            _place(new, target, work / ASIDE, force=force)
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _place(new: Path, target: Path, old: Path, *, force: bool) -> None:
    """Put `new` in the place of `target`, whose content becomes `old`, or leave `target` as it was.

    A rename of a folder replaces an empty folder and fails for all else, so nothing that came meanwhile is lost.
    """
    try:
        if force:
            _move_aside(target, old)
        new.rename(target)
    except BaseException as error:
        if old.exists() and not target.exists():
            old.rename(target)
        if isinstance(error, OSError) and error.errno in TAKEN:
            raise UsageError(
                f"{target} came to be while this run worked, and was left as it is",
                cause="another run, or another program, wrote there meanwhile",
                hint="give each run a path of its own with -o",
            ) from error
        raise


def _move_aside(target: Path, old: Path) -> None:
    """Move a folder of ours to `old`, looking again at what was moved: another may have come there just before."""
    check_target(target, force=True)
    if target.exists() and any(target.iterdir()):
        target.rename(old)
        _check_ours(old, target)
