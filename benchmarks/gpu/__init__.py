"""Evidence from a real GPU: what `python -m benchmarks.gpu.run` measures, a module a section.

It runs from a source checkout, installed or not: where the folders of this project are not to be found as `cutset.*`, they
are linked under `build/typing`, which needs no packaging tool and no network.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _use_checkout() -> None:
    """Make `cutset.*` importable here and in child processes, from this checkout if it is not installed."""
    try:
        if importlib.util.find_spec("cutset.profilers") is not None:
            return
    except ModuleNotFoundError:
        pass
    runpy.run_path(str(ROOT / "tools" / "link_typing.py"))["main"]()
    for name in [name for name in sys.modules if name.partition(".")[0] == "cutset"]:
        del sys.modules[name]  # the root package alone, found in the current folder
    links = str(ROOT / "build" / "typing")
    sys.path.insert(0, links)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (links, os.environ.get("PYTHONPATH", ""))))


_use_checkout()
