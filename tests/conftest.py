"""Make `tests` importable, so that test modules can share helpers, however pytest starts; nothing is timed in a test."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import settings

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # at the end: the installed packages go first

settings.register_profile("explore", deadline=None)
settings.register_profile("repeat", deadline=None, derandomize=True)  # whether a commit lands hangs on the commit alone
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "explore"))
