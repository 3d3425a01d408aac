"""What a stage backend is: something that opens one stage's model and runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ..config import CustomOps
from ..dtypes import Value


class BackendError(Exception):
    """A backend could not load or run a stage; the pipeline says which stage and which request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """What a backend may need beside its stage.

    Args:
        intra_op_threads: CPU threads inside one run.
        custom_ops: Custom-operator libraries to register.
    """

    intra_op_threads: int
    custom_ops: tuple[CustomOps, ...]


class StageBackend(Protocol):
    """A loaded stage. Made by a `load(stage, options)` class method that raises `BackendError`."""

    @property
    def device(self) -> str:
        """Where it really runs, ``"cpu"`` or ``"gpu"``; decides which workers run it."""

    @property
    def substitution(self) -> str | None:
        """Why `device` is not the planned one; None where it is."""

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return every output of the stage by name.

        A backend on the CPU is called from several threads at once, one on a GPU from a single thread.

        Args:
            feeds: Exactly the stage's inputs.

        Raises:
            BackendError: If the run failed; later runs are not affected.
        """

    def close(self) -> None:
        """Release what the stage holds; nothing runs any more."""
