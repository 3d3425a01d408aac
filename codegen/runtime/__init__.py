"""The pipeline that runs in production: copied verbatim into every generated package."""

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
