"""The pipeline that runs in production: copied verbatim into every generated package."""

import os

# onnxruntime 1.32 and later report to their maker unless told not to; say so before anything imports it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from .errors import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    DegradedWarning,
    InputError,
    Overloaded,
    PipelineError,
    StageError,
)
from .pipeline import Pipeline

__all__ = [
    "Closed",
    "ConfigError",
    "DeadlineExceeded",
    "DegradedWarning",
    "InputError",
    "Overloaded",
    "Pipeline",
    "PipelineError",
    "StageError",
]
