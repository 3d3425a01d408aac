"""Open `annotated.onnx`, which lies beside this file, so that every node runs where the plan has it.

As a program it says which provider got how many nodes: `python open_session.py`.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime

SETTING = "session.layer_assignment_settings"
RECORD = "session.record_ep_graph_assignment_info"
IMPOSSIBLE = "no device here"
_IDENTITY = base64.b64decode("CAgSADo3ChAKAXgSAXkiCElkZW50aXR5EgFtWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQDQ==")
"""The ONNX model y = x."""


def heeds_annotations() -> bool:
    """Return whether this onnxruntime places by annotations: one that does refuses an impossible setting."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(SETTING, IMPOSSIBLE)
    try:
        onnxruntime.InferenceSession(_IDENTITY, options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's errors share no narrower base
        return True
    return False


def open_session(folder: Path | None = None) -> onnxruntime.InferenceSession:
    """Return the session.

    Args:
        folder: Where the model and its options lie; by default beside this file.

    Raises:
        RuntimeError: If this onnxruntime would ignore the annotations.
    """
    folder = Path(__file__).parent if folder is None else folder
    if not heeds_annotations():
        version = onnxruntime.__version__
        raise RuntimeError(f"onnxruntime {version} ignores placement annotations: pip install --upgrade onnxruntime")
    wanted: dict[str, Any] = json.loads((folder / "session_options.json").read_text("utf-8"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = wanted["intra_op_num_threads"]
    for key, value in {**wanted["config"], RECORD: "1"}.items():
        options.add_session_config_entry(key, value)
    for library in wanted["custom_ops"]:
        module = library["module"] and importlib.import_module(library["module"])
        options.register_custom_ops_library(module.get_library_path() if module else str(folder / library["file"]))
    there = [provider for provider in wanted["providers"] if provider in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(str(folder / "annotated.onnx"), options, providers=there)


def assigned(session: onnxruntime.InferenceSession) -> dict[str, int]:
    """Return how many nodes each provider got, after fusion."""
    parts = session.get_provider_graph_assignment_info()
    return dict(Counter(part.ep_name for part in parts for _ in part.get_nodes()))


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(assigned(open_session()))}\n")
