"""A stage that is not run on tensors so small that its kernels would end the process.

`partition` finds these sizes in a child process. The inputs of the model are checked before anything runs; here the tensors
between stages are, whose sizes depend on the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..dtypes import Value
from ..validation import below
from .base import BackendError, StageBackend
from .device import shape_of


class SizeCheckedBackend:
    """A backend behind a check of sizes; everything else is the backend's own.

    Args:
        backend: The loaded stage.
        least: Least size of each dimension of an input, by input.
    """

    def __init__(self, backend: StageBackend, least: Mapping[str, tuple[int, ...]]) -> None:
        self._backend, self._least = backend, least

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    @property
    def device(self) -> str:
        """Where the stage runs."""
        return self._backend.device

    @property
    def substitution(self) -> str | None:
        """Why the stage is not on its planned device."""
        return self._backend.substitution

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`.

        Raises:
            BackendError: If a tensor is smaller than the stage's kernels survive.
        """
        for name, least in self._least.items():
            shape = shape_of(feeds[name])
            if len(shape) == len(least) and below(least, shape):
                raise BackendError(f"its kernels end the process below shape {list(least)} of {name!r}: not run")
        return self._backend.run(feeds)

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()
