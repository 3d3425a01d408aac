"""The pipeline: requests walk the stages of a plan, each stage on its device's workers.

A request enters through `admission` and is carried on by `executor`. CPU stages share one pool, because fixed shares of
the cores leave some idle while others queue; a GPU has its own threads.
"""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from .admission import Admission
from .backends import load_stage
from .backends.base import BackendOptions, StageBackend
from .backends.device import as_array
from .config import PlanConfig, read_plan
from .context import Context, ImmediateResult
from .dtypes import Value
from .errors import Closed, DeadlineExceeded, DegradedWarning, InputError, Overloaded, StageError
from .executor import Executor, RequestEnds
from .schedule import build_phases, interval_s, needed_inputs, places, replicas, tokens
from .shortcut import Shortcut
from .statistics import Distribution, PipelineStats, Recorder
from .supervised import Supervised, Turns
from .tracing import Tracer
from .validation import check_inputs

_REASONS: dict[type[BaseException], str] = {
    DeadlineExceeded: "deadline",
    Closed: "closed",
    StageError: "stage",
}


class Pipeline:
    """A loaded plan that answers requests; use it as a context manager, or call `close`.

    Every method may be called from any thread. Only callbacks of its own futures, which run on its workers, must not
    wait for it with `run`, `map` or `close`.
    """

    @classmethod
    def load(cls, folder: str | Path | None = None, **overrides: float) -> Self:
        """Return the pipeline of a package folder, its stages loaded and its workers started.

        Warns with `DegradedWarning` for each stage that runs elsewhere than planned, e.g. for want of a GPU.

        Args:
            folder: The folder of plan.json; by default the package this module lies in.
            overrides: ``cpu_workers``, ``intra_op_threads``, ``tokens``, ``queue_limit``, ``max_batch``, ``max_delay_s`` or
                ``stage_timeout_s`` instead of the plan's.

        Raises:
            ConfigError: If the plan or a stage's model cannot be used; the message names it.
        """
        root = Path(__file__).resolve().parent.parent if folder is None else Path(folder)
        planned = read_plan(root).override(overrides)
        plan = planned if "cpu_workers" in overrides else planned.override({"cpu_workers": replicas(planned)})
        options = BackendOptions.of(plan)
        backends: list[StageBackend] = []
        gpu = Turns()
        try:
            for planned_stage in plan.stages:
                stage = replace(planned_stage, wanted=places(plan, planned_stage))
                turns = gpu if stage.device == "gpu" else None
                backends.append(Supervised(partial(load_stage, stage, options), turns=turns))
                reason = backends[-1].substitution
                if reason is not None:
                    warnings.warn(
                        f"stage {stage.index} is planned for the {stage.device} and runs on the "
                        f"{backends[-1].device}: {reason}",
                        DegradedWarning,
                        stacklevel=2,
                    )
            return cls(plan, backends)
        except BaseException:
            for backend in backends:
                backend.close()
            raise

    def __init__(self, plan: PlanConfig, backends: list[StageBackend]) -> None:
        """Start the workers over loaded stages; `load` is the way in.

        Args:
            plan: The checked plan.
            backends: One loaded stage for each of the plan's, closed with the pipeline.
        """
        self.plan = plan
        phases = build_phases(plan, backends)
        self._needed = needed_inputs(plan)
        self._window = tokens(plan, phases)
        self._admission = Admission(tokens=self._window, queue_limit=plan.queue_limit, interval_s=interval_s(plan))
        self._requests = Recorder()
        self._closing = threading.Lock()
        self._released = False
        self._started = time.perf_counter()
        self._tracer = Tracer()
        ends = RequestEnds(done=self._done, abandon=self._abandon, leave=self._leave)
        self._executor = Executor(plan, phases, ends, self._tracer)
        self._shortcut = Shortcut(plan, phases, self._executor.recorders)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._admission.closed

    @property
    def window(self) -> int:
        """Most requests that are inside at once."""
        return self._window

    @property
    def ready(self) -> bool:
        """Whether requests are taken, every stage has a backend that lives, and no run is hung."""
        return not self.closed and self._executor.healthy

    @property
    def live(self) -> bool:
        """Whether this process can still become ready; False asks for a new one (see docs/serving.md, faults)."""
        return self._executor.live

    def run(self, inputs: Mapping[str, Value], timeout: float | None = None) -> dict[str, Value]:
        """Return the model's outputs by name, waiting for room in the pipeline if need be.

        Without a timeout the calling thread does the work of an idle CPU worker itself, which saves two changes of thread.

        Args:
            inputs: One value a model input: an array of its element type, or a list or scalar (see `validation`).
            timeout: Most seconds to wait; a stage that is running is not interrupted, its result is dropped.

        Raises:
            InputError: If the inputs do not fit the model.
            StageError: If a stage failed on them.
            DeadlineExceeded: If the time ran out.
            Closed: If the pipeline is closed.
        """
        if timeout is None:
            return self._submit(inputs, None, wait=True, here=True).result()
        deadline = time.monotonic() + timeout
        future = self._submit(inputs, deadline, wait=True)
        try:
            return future.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise DeadlineExceeded(f"no result within {timeout} s") from None
        finally:
            future.cancel()

    async def arun(self, inputs: Mapping[str, Value], timeout: float | None = None) -> dict[str, Value]:
        """Return the model's outputs without blocking the event loop; cancelling the task takes the request out.

        Args:
            inputs: As for `run`.
            timeout: As for `run`.

        Raises:
            PipelineError: As `run`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            future = self._submit(inputs, deadline, wait=False)
        except Overloaded:
            future = await asyncio.to_thread(self._submit, inputs, deadline, wait=True)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            raise DeadlineExceeded(f"no result within {timeout} s") from None

    def submit(self, inputs: Mapping[str, Value], deadline: float | None = None) -> Future[dict[str, Value]]:
        """Return a future of the model's outputs at once; cancelled, it leaves before its next stage.

        Args:
            inputs: As for `run`.
            deadline: When the result is useless, on the clock of `time.monotonic`; checked before each stage.

        Raises:
            InputError: If the inputs do not fit the model.
            Overloaded: If the pipeline and its waiting line are full.
            Closed: If the pipeline is closed.
        """
        return self._submit(inputs, deadline, wait=False)

    def answer(self, inputs: Mapping[str, Value], deadline: float | None = None) -> dict[str, Value] | Future[dict[str, Value]]:
        """Return the model's outputs if to compute them here takes less than the way to another thread, else a future.

        Args:
            inputs: As for `run`.
            deadline: As for `submit`.

        Raises:
            PipelineError: As `submit`; and as `run` where the outputs are computed here.
        """
        if not self._shortcut.open():
            return self._submit(inputs, deadline, wait=False)
        begin = time.perf_counter()
        outcome = ImmediateResult()
        context = self._context(inputs, deadline, outcome)
        entered = self._admission.enter_now()
        if entered and self._executor.start_here(context):
            self._shortcut.took(time.perf_counter() - begin)
            return outcome.result()
        future: Future[dict[str, Value]] = Future()
        context.future = future
        if entered:
            self._executor.start(context)
        else:
            self._admit(context, future, wait=False)
        return future

    def map(self, items: Iterable[Mapping[str, Value]]) -> Iterator[dict[str, Value]]:
        """Yield the outputs of each item in order, keeping at most twice as many under way as fit inside.

        The first failing item raises its error in its turn, and the items behind it that did not start are cancelled.
        """
        pending: deque[Future[dict[str, Value]]] = deque()
        window = 2 * self._window  # twice: while the oldest is slow, the others have work behind it
        try:
            for inputs in items:
                if len(pending) >= window:
                    yield pending.popleft().result()
                pending.append(self._submit(inputs, None, wait=True))
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def stats(self) -> PipelineStats:
        """Return counts, times, queue lengths and utilisation since the pipeline was loaded."""
        uptime_s = time.perf_counter() - self._started
        stages = self._executor.stats(uptime_s)
        inside, waiting = self._admission.counts()
        return PipelineStats(
            uptime_s=uptime_s,
            completed=self._requests.count,
            failed=self._requests.failed,
            failures=self._requests.failures,
            latency=self._requests.service(),
            latency_sum_s=self._requests.total,
            inside=inside,
            waiting=waiting,
            stages=stages,
            utilisation=self._executor.utilisation(stages),
        )

    def distributions(self) -> tuple[Distribution, list[dict[str, Distribution]]]:
        """Return the histogram of request times, and each stage's of service time, waiting time and rows a run."""
        stages = [
            {
                "service": recorders.service.distribution(),
                "waited": recorders.waited.distribution(),
                "rows": recorders.rows.distribution(),
            }
            for recorders in self._executor.recorders
        ]
        return self._requests.distribution(), stages

    def close(self, timeout: float | None = None) -> None:
        """Finish what was taken, then stop the workers and release the stages. Closing twice is fine.

        Args:
            timeout: Most seconds to wait for the requests under way; those left then fail with `Closed`, except for
                the stage that is running, which cannot be interrupted and is waited for as long again at most.
        """
        self._admission.close()
        with self._closing:
            if self._released:
                return
            if not self._admission.drain(timeout):
                self._executor.abort()
                self._admission.drain(timeout)
            self._executor.stop(timeout)
            self._released = True

    def _submit(
        self, inputs: Mapping[str, Value], deadline: float | None, *, wait: bool, here: bool = False
    ) -> Future[dict[str, Value]]:
        future: Future[dict[str, Value]] = Future()
        self._admit(self._context(inputs, deadline, future), future, wait=wait, here=here)
        return future

    def _context(
        self, inputs: Mapping[str, Value], deadline: float | None, future: Future[dict[str, Value]] | ImmediateResult
    ) -> Context:
        try:
            checked = check_inputs(self.plan.inputs, inputs)
        except InputError:
            self._requests.add_failure("input")
            raise
        return Context({name: checked[name] for name in self._needed}, deadline, future, self._tracer.here())

    def _admit(self, context: Context, future: Future[dict[str, Value]], *, wait: bool, here: bool = False) -> None:
        """Let a request in and start it, on the calling thread if `here` and it may, or have it wait in the line."""
        try:
            entered = self._admission.enter(context, future, wait=wait)
        except Overloaded:
            self._requests.add_failure("overloaded")
            raise
        if entered and not (here and self._executor.start_here(context)):
            self._executor.start(context)

    def _done(self, context: Context, error: BaseException | None) -> None:
        """Answer a request that leaves the executor."""
        wanted = context.future.set_running_or_notify_cancel()
        outputs = {}
        if not wanted:
            self._requests.add_failure("cancelled")
        elif error is None:
            outputs = {tensor.name: as_array(context.tensors[tensor.name]) for tensor in self.plan.outputs}
            self._requests.add(time.perf_counter() - context.submitted)
        else:
            self._requests.add_failure(_REASONS.get(type(error), "internal"))
        self._leave(context)
        if not wanted:
            return
        if error is None:
            context.future.set_result(outputs)
        else:
            context.future.set_exception(error)

    def _abandon(self, context: Context, error: BaseException) -> None:
        """Answer a request that a stage does not give back; its token is free once the stage does."""
        if context.future.set_running_or_notify_cancel():
            self._requests.add_failure(_REASONS.get(type(error), "internal"))
            context.future.set_exception(error)
        else:
            self._requests.add_failure("cancelled")

    def _leave(self, context: Context) -> None:
        """Free the request's token, before its future wakes the caller, so that the workers go on at once."""
        context.tensors = {}
        following = self._admission.leave()
        if following is not None:
            self._executor.start(following)
