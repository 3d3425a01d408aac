"""Find a file that another file names: it must lie in the folder of the file that names it."""

from __future__ import annotations

import os
from pathlib import Path


def find_beside(path: Path, location: str) -> Path | None:
    """Return the file that the file at `path` calls `location`, all links followed, or None if it lies elsewhere.

    Where `path` itself is a link, as in a hub's cache, the folder of the file behind the link counts as well. A link that
    leads out of both folders may be an attack: what it leads to would be read, and shipped in a package.

    Args:
        path: The file that names the other.
        location: The name, relative to the folder of `path`; the file need not exist.
    """
    try:
        folder = path.parent.resolve()
        file = (folder / location).resolve()
        inside = any(file.is_relative_to(allowed) for allowed in (folder, path.resolve().parent))
    except (OSError, RuntimeError, ValueError):  # links in a circle, and characters that no path holds
        return None
    # From Python 3.13 on, links in a circle are no error. `Path.is_symlink` would raise for a name that is too long.
    circular = os.path.islink(file)  # noqa: PTH114
    return file if inside and not circular else None
