"""The values of inputs that a request may leave out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from .dtypes import Value
from .errors import ConfigError

FILE = "defaults.npz"


def read_defaults(folder: Path) -> dict[str, Value]:
    """Return the default of each input that has one; nothing where the package has no such file.

    Args:
        folder: The package.

    Raises:
        ConfigError: If the file cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with np.load(path) as opened:
            return dict(opened)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"cannot read the defaults: {error}", where=str(path), hint="compile the package again") from error
