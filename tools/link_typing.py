"""Make the links through which mypy and pyright see the five folders as `cutset.*`.

setuptools' editable import hook is invisible to type checkers, so `build/typing/cutset/` (git-ignored) mirrors the
`package-dir` table of pyproject.toml. Run it before the type checker: `python tools/link_typing.py`.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write `build/typing/cutset` anew from the table in pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, str] = tomllib.load(file)["tool"]["setuptools"]["package-dir"]
    target = ROOT / "build" / "typing" / "cutset"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for entry in sorted((ROOT / table.pop("cutset")).iterdir()):
        if entry.name != "__pycache__":
            (target / entry.name).symlink_to(entry)
    for package, folder in table.items():
        (target / package.removeprefix("cutset.")).symlink_to(ROOT / folder, target_is_directory=True)


if __name__ == "__main__":
    main()
