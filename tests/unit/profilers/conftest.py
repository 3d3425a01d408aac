"""An nvidia-smi that prints what the real one does."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def fake_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an nvidia-smi first in PATH; it prints the file ``output`` beside it and notes its arguments in ``asked``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    tool = folder / "nvidia-smi"
    tool.write_text('#!/bin/sh\nhere=$(dirname "$0")\necho "$@" > "$here/asked"\ncat "$here/output"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder
