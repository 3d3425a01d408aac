"""Make `tests` importable, so that test modules can share helpers (`from tests.support import ...`) however pytest starts."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # at the end: the installed packages go first
