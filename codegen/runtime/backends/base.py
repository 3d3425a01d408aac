"""What a stage backend is: something that opens one stage's model and runs it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from ..config import CustomOps, PlanConfig, StageConfig
from ..dtypes import Value

GPU_BATCH = 8
"""Rows a batchable stage on a GPU takes when the plan leaves it open; on CPU cores batches gained nothing."""
_LEAST_LIMIT_S = 30.0
_LIMIT_FACTOR = 1000.0  # a request may have many more rows than the sample, and a GPU's stage may run on the CPU


class BackendError(Exception):
    """A backend could not load or run a stage; the pipeline says which stage and which request."""


class BackendDied(BackendError):  # noqa: N818 - what happened, as the other names of this kind
    """A backend was lost during a run, and every later run would fail too: its device or its process is gone."""


class BackendGone(BackendDied):
    """A backend was lost before a run began, so the run is not to blame."""


class BackendHung(BackendDied):
    """A run took longer than `time_limit_s` allows, and the backend was ended for it."""


def time_limit_s(stage: StageConfig, wanted_s: float | None) -> float:
    """Return the seconds after which a run of a stage counts as hung; infinite for a wanted limit of 0.

    Args:
        stage: The stage.
        wanted_s: The limit that a user or the plan gives; None derives one from the stage's planned time.
    """
    if wanted_s is None:
        return max(_LEAST_LIMIT_S, _LIMIT_FACTOR * stage.service_s)
    return wanted_s or math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """What a backend may need beside its stage.

    Args:
        intra_op_threads: CPU threads inside one run.
        custom_ops: Custom-operator libraries to register.
        workers: Threads that call `StageBackend.run` of a CPU stage at once.
        max_batch: Most rows that a batchable stage on a GPU is given as one.
        stage_timeout_s: Most seconds of one run; 0 for no limit, None for the limit of `time_limit_s`.
    """

    intra_op_threads: int
    custom_ops: tuple[CustomOps, ...]
    workers: int = 1
    max_batch: int = GPU_BATCH
    stage_timeout_s: float | None = None

    @classmethod
    def of(cls, plan: PlanConfig) -> Self:
        """Return what the stages of a plan are loaded with."""
        return cls(
            intra_op_threads=plan.intra_op_threads,
            custom_ops=plan.custom_ops,
            workers=plan.cpu_workers,
            max_batch=plan.max_batch or GPU_BATCH,
            stage_timeout_s=plan.stage_timeout_s,
        )


class StageBackend(Protocol):
    """A loaded stage. Made by a `load(stage, options)` class method that raises `BackendError`.

    Three further attributes are read where a backend has them: `slots`, how many threads may call `run` of a GPU stage at
    once (1 if absent; with 3, the copies of two requests overlap the computation of another), `max_batch`, most rows one
    run takes, and `joins`, whether an input may be the `device.Parts` of a batch.
    """

    @property
    def device(self) -> str:
        """Where it really runs, ``"cpu"`` or ``"gpu"``; decides which workers run it."""

    @property
    def substitution(self) -> str | None:
        """Why `device` is not the planned one; None where it is."""

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return every output of the stage by name.

        A backend on the CPU is called from several threads at once, one on a GPU from `slots` threads.

        Args:
            feeds: Exactly the stage's inputs.

        Raises:
            BackendDied: If the backend was lost during the run (`BackendHung`: ended for it; `BackendGone`: before it).
            BackendError: If the run failed; later runs are not affected.
        """

    def close(self) -> None:
        """Release what the stage holds; nothing runs any more."""
