"""One stage of a plan, alone: what a worker of another serving engine loads and runs.

The engine brings the queue, the scaling and the way from stage to stage; loading, substitution, batching and recovery are
the pipeline's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from .backends import load_stage
from .backends.base import BackendDied, BackendError, BackendGone, BackendOptions, StageBackend
from .batching import Batch
from .config import StageConfig, read_plan
from .context import Context, ImmediateResult
from .dtypes import Value
from .errors import DegradedWarning, PipelineError, StageError
from .schedule import batch_limit
from .supervised import Supervised, run_request

Outcome = dict[str, Value] | PipelineError


class StageReplica:
    """A loaded stage that answers lists of requests.

    Args:
        stage: Its configuration.
        backend: The loaded stage.
        max_batch: Most rows of one run; 1 keeps requests apart.
    """

    @classmethod
    def load(cls, folder: str | Path, index: int = 0) -> Self:
        """Return a stage of the plan in a folder; warns with `DegradedWarning` where it runs elsewhere than planned.

        Raises:
            ConfigError: If the plan or the stage's model cannot be used.
        """
        plan = read_plan(Path(folder))
        stage = replace(plan.stages[index], execution="thread")  # the engine gives each replica a process anyway
        options = replace(BackendOptions.of(plan), workers=1)
        backend = Supervised(partial(load_stage, stage, options))
        if backend.substitution is not None:
            where = f"planned for the {stage.device} and runs on the {backend.device}"
            warnings.warn(f"the stage is {where}: {backend.substitution}", DegradedWarning, stacklevel=2)
        return cls(stage, backend, batch_limit(plan, stage, backend))

    def __init__(self, stage: StageConfig, backend: StageBackend, max_batch: int) -> None:
        self.stage = stage
        self.backend = backend
        self.max_batch = max_batch

    @property
    def healthy(self) -> bool:
        """Whether runs can succeed."""
        return bool(getattr(self.backend, "healthy", True))

    def run(self, requests: Sequence[Mapping[str, Value]]) -> list[Outcome]:
        """Return the outputs by name of each request, or the error of that request, in order.

        Neighbours that fit together run as one where compiling proved that this changes nothing.

        Args:
            requests: The stage's inputs by name, each in its element type.
        """
        waiting = [Context(dict(feeds), None, ImmediateResult()) for feeds in requests]
        outcomes: list[Outcome] = []
        while waiting:
            batch = Batch(waiting.pop(0), self.stage.inputs, self.max_batch)
            while waiting and batch.take(waiting[0]):
                waiting.pop(0)
            outcomes += self._run_batch(batch)
        return outcomes

    def close(self) -> None:
        """Release the stage."""
        self.backend.close()

    def _run_batch(self, batch: Batch) -> list[Outcome]:
        if len(batch.members) > 1:
            try:
                shares = batch.split(self.backend.run(batch.feeds()))
            except BackendError as error:
                shares = None  # one bad request must not fail its neighbours
                for member in batch.members:
                    member.deaths += isinstance(error, BackendDied) and not isinstance(error, BackendGone)
            if shares is not None:
                return list(shares)
        return [self._run_alone(member) for member in batch.members]

    def _run_alone(self, request: Context) -> Outcome:
        feeds = request.tensors
        try:
            return run_request(self.backend, {name: feeds[name] for name in self.stage.inputs}, request)
        except BackendError as error:
            shapes = {name: getattr(value, "shape", None) for name, value in feeds.items()}
            return StageError(self.stage.index, device=self.backend.device, cause=str(error), shapes=shapes)
