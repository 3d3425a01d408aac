"""Make `tests` importable, so that test modules can share helpers, and say how tests run beside each other.

Nothing is timed in a test, so hypothesis has no deadlines. Where several processes share the tests, those of one file stay
together, for they share fixtures; the backend's tests, the longest file, are divided by their first letter.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # at the end: the installed packages go first

settings.register_profile("cutset", deadline=None)
settings.load_profile("cutset")


def pytest_configure(config: pytest.Config) -> None:
    """Know the mark where pytest-xdist is not installed."""
    config.addinivalue_line("markers", "xdist_group(name): tests that run in one process, in their order")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put every test into the group of its file."""
    for item in items:
        letter = item.callspec.params.get("first", "") if hasattr(item, "callspec") else ""
        part = letter if item.path.name == "test_backend_node_tests.py" else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.path}{part}"))
