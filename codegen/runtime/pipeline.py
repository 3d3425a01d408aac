"""The pipeline: requests walk the stages of a plan, each stage on its device's workers.

A request enters through `admission`, is put to the pool of its first stage, and is carried on by the worker that
finishes a stage: on the same thread while the device stays the same, else into the next device's pool. CPU stages
share one pool, because fixed shares of the cores leave some idle while others queue; the GPU has one thread.
"""

from __future__ import annotations

import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from .admission import Admission
from .backends import load_stage
from .backends.base import BackendOptions, StageBackend
from .config import PlanConfig, read_plan
from .context import Context
from .dtypes import Value
from .errors import Closed, DeadlineExceeded, DegradedWarning, StageError
from .pool import WorkerPool
from .schedule import Phase, build_phases, interval_s, needed_inputs
from .statistics import PipelineStats, Recorder, StageStats
from .validation import check_inputs


class Pipeline:
    """A loaded plan that answers requests; use it as a context manager, or call `close`.

    Every method may be called from any thread. Only callbacks of its own futures, which run on its workers, must not
    wait for it with `run`, `map` or `close`.
    """

    @classmethod
    def load(cls, folder: str | Path | None = None, **overrides: int) -> Self:
        """Return the pipeline of a package folder, its stages loaded and its workers started.

        Warns with `DegradedWarning` for each stage that runs elsewhere than planned, e.g. for want of a GPU.

        Args:
            folder: The folder of plan.json; by default the package this module lies in.
            overrides: ``cpu_workers``, ``intra_op_threads``, ``tokens`` or ``queue_limit`` instead of the plan's.

        Raises:
            ConfigError: If the plan or a stage's model cannot be used; the message names it.
        """
        root = Path(__file__).resolve().parent.parent if folder is None else Path(folder)
        plan = read_plan(root).override(overrides)
        options = BackendOptions(intra_op_threads=plan.intra_op_threads, custom_ops=plan.custom_ops)
        backends: list[StageBackend] = []
        try:
            for stage in plan.stages:
                backends.append(load_stage(stage, options))
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
        self._phases = build_phases(plan, backends)
        self._needed = needed_inputs(plan)
        self._admission = Admission(tokens=plan.tokens, queue_limit=plan.queue_limit, interval_s=interval_s(plan))
        self._requests = Recorder()
        self._stages = tuple(Recorder() for _ in self._phases)
        self._aborted = False
        self._closing = threading.Lock()
        self._released = False
        self._started = time.perf_counter()
        sizes = {"cpu": plan.cpu_workers, "gpu": 1}
        self._pools = {
            device: WorkerPool(device, threads=sizes[device], phases=len(self._phases), advance=self._advance)
            for device in sorted({phase.device for phase in self._phases})
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._admission.closed

    def run(self, inputs: Mapping[str, Value], timeout: float | None = None) -> dict[str, Value]:
        """Return the model's outputs by name, waiting for room in the pipeline if need be.

        Args:
            inputs: One value a model input: an array of its element type, or a list or scalar (see `validation`).
            timeout: Most seconds to wait; a stage that is running is not interrupted, its result is dropped.

        Raises:
            InputError: If the inputs do not fit the model.
            StageError: If a stage failed on them.
            DeadlineExceeded: If the time ran out.
            Closed: If the pipeline is closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        future = self._submit(inputs, deadline, wait=True)
        try:
            return future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise DeadlineExceeded(f"no result within {timeout} s") from None
        finally:
            future.cancel()

    def submit(self, inputs: Mapping[str, Value], deadline: float | None = None) -> Future[dict[str, Value]]:
        """Return a future of the model's outputs at once; it can be cancelled until its first stage starts.

        Args:
            inputs: As for `run`.
            deadline: When the result is useless, on the clock of `time.monotonic`; checked before each stage.

        Raises:
            InputError: If the inputs do not fit the model.
            Overloaded: If the pipeline and its waiting line are full.
            Closed: If the pipeline is closed.
        """
        return self._submit(inputs, deadline, wait=False)

    def map(self, items: Iterable[Mapping[str, Value]]) -> Iterator[dict[str, Value]]:
        """Yield the outputs of each item in order, keeping at most twice `tokens` requests under way.

        The first failing item raises its error in its turn, and the items behind it that did not start are cancelled.
        """
        pending: deque[Future[dict[str, Value]]] = deque()
        window = 2 * self.plan.tokens  # twice: while the oldest is slow, the others have work behind it
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
        stages = tuple(self._stage_stats(number, uptime_s) for number in range(len(self._phases)))
        inside, waiting = self._admission.counts()
        return PipelineStats(
            uptime_s=uptime_s,
            completed=self._requests.count,
            failed=self._requests.failed,
            latency=self._requests.service(),
            latency_sum_s=self._requests.total_s,
            inside=inside,
            waiting=waiting,
            stages=stages,
            utilisation={
                device: sum(stage.utilisation for stage in stages if stage.device == device) for device in self._pools
            },
        )

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
                self._aborted = True
                self._admission.drain(timeout)
            for pool in self._pools.values():
                pool.stop(timeout)
            for phase in self._phases:
                phase.backend.close()
            self._released = True

    def _stage_stats(self, number: int, uptime_s: float) -> StageStats:
        phase, recorder = self._phases[number], self._stages[number]
        pool = self._pools[phase.device]
        return StageStats(
            index=phase.stage.index,
            device=phase.device,
            count=recorder.count,
            failed=recorder.failed,
            busy_s=recorder.total_s,
            service=recorder.service(),
            queue=pool.depth(number),
            utilisation=recorder.total_s / (uptime_s * pool.size),
        )

    def _submit(self, inputs: Mapping[str, Value], deadline: float | None, *, wait: bool) -> Future[dict[str, Value]]:
        checked = check_inputs(self.plan.inputs, inputs)
        context = Context({name: value for name, value in checked.items() if name in self._needed}, deadline)
        if self._admission.enter(context, wait=wait):
            self._start(context)
        return context.future

    def _start(self, context: Context) -> None:
        self._pools[self._phases[0].device].put(context)

    def _advance(self, context: Context, pool: WorkerPool) -> None:
        """Carry a request as far as this pool's device goes. Runs on a worker; the request's errors stay with it."""
        if context.phase == 0 and not context.future.set_running_or_notify_cancel():
            self._leave(context)
            return
        try:
            while context.phase < len(self._phases):
                phase = self._phases[context.phase]
                if phase.device != pool.name:
                    self._pools[phase.device].put(context)
                    return
                self._check(context)
                self._execute(phase, context)
                context.phase += 1
            outputs = {tensor.name: context.tensors[tensor.name] for tensor in self.plan.outputs}
        except BaseException as error:  # whatever a stage raises must reach its caller, not end a worker
            _release_frames(error)
            self._requests.add_failure()
            self._leave(context)
            context.future.set_exception(error)
        else:
            self._requests.add(time.perf_counter() - context.submitted)
            self._leave(context)
            context.future.set_result(outputs)

    def _leave(self, context: Context) -> None:
        """Free the request's token, before its future wakes the caller, so that the workers go on at once."""
        context.tensors = {}
        following = self._admission.leave()
        if following is not None:
            self._start(following)

    def _check(self, context: Context) -> None:
        if self._aborted:
            raise Closed("the pipeline was closed before the request was finished")
        if context.expired():
            raise DeadlineExceeded(f"the deadline passed before stage {context.phase}")

    def _execute(self, phase: Phase, context: Context) -> None:
        tensors = context.tensors
        feeds = {name: tensors[name] for name in phase.stage.inputs}
        recorder = self._stages[context.phase]
        begin = time.perf_counter()
        try:
            outputs = phase.backend.run(feeds)
        except Exception as error:
            recorder.add_failure()
            shapes = {name: value.shape if isinstance(value, np.ndarray) else None for name, value in feeds.items()}
            raise StageError(phase.stage.index, device=phase.device, cause=str(error), shapes=shapes) from error
        recorder.add(time.perf_counter() - begin)
        for name in phase.drop:
            del tensors[name]
        for name in phase.keep:
            tensors[name] = outputs[name]


def _release_frames(error: BaseException) -> None:
    """Drop the tensors that the frames of a failed run hold.

    The error, its frames and the request's future refer to each other; a burst of failures would keep every tensor
    alive until the cycle collector comes by.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__
