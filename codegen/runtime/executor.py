"""Carry requests through the phases: which thread runs what, what happens to failures, and what is counted.

A worker that finishes a phase goes on with the same request while the device stays the same, else it hands it to the
next device's pool. In front of a batchable phase it takes along what else waits there. Before each phase a request that
was cancelled or whose deadline has passed leaves without further work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TypeVar

from .backends.base import BackendDied, BackendGone, BackendHung
from .backends.device import as_array
from .batching import Batch, count_rows
from .config import PlanConfig
from .context import Context
from .dtypes import Value
from .errors import Closed, DeadlineExceeded, PipelineError, StageError, release_frames
from .pool import WorkerPool
from .schedule import Phase, pool_sizes
from .statistics import StageRecorders, StageStats
from .supervised import run_request
from .tracing import Tracer
from .watchdog import Watchdog, WatchedRun

_T = TypeVar("_T")


class _Abandoned(Exception):  # noqa: N818 - what happened
    """A run came back after its requests had been answered by the watchdog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnds:
    """How requests end.

    Args:
        done: Answers a request that leaves, with an error or None, and gives its token back.
        abandon: Answers a request with an error; its token stays with the run that does not return.
        leave: Gives the token of a request back that was abandoned.
    """

    done: Callable[[Context, BaseException | None], None]
    abandon: Callable[[Context, BaseException], None]
    leave: Callable[[Context], None]


class Executor:
    """The pools and the phases they run.

    Args:
        plan: The plan.
        phases: Its stages, loaded.
        ends: Told of each request that leaves.
        tracer: Told of each stage that ran for a request that is traced.
    """

    def __init__(
        self,
        plan: PlanConfig,
        phases: tuple[Phase, ...],
        ends: RequestEnds,
        tracer: Tracer,
    ) -> None:
        self._phases = phases
        self._ends = ends
        self._done = ends.done
        self._delay_s = plan.max_delay_s
        self._aborted = False
        self._tracer = tracer
        self._recorders = tuple(StageRecorders() for _ in phases)
        self._watchdog = Watchdog([phase.limit_s for phase in phases], self._answer_hung)
        self._pools = {
            device: WorkerPool(
                device, threads=threads, phases=[p.max_batch if device == "gpu" else 1 for p in phases], advance=self._advance
            )
            for device, threads in pool_sizes(plan, phases).items()
        }

    @property
    def recorders(self) -> tuple[StageRecorders, ...]:
        """What was counted, one entry a stage."""
        return self._recorders

    @property
    def healthy(self) -> bool:
        """Whether every stage has a backend that lives, and no run is hung."""
        return not self._watchdog.hung and all(getattr(phase.backend, "healthy", True) for phase in self._phases)

    @property
    def live(self) -> bool:
        """Whether no new process is needed: False with a run that hangs on a thread, or a backend that is hopeless."""
        return not self._watchdog.hung and not any(getattr(phase.backend, "hopeless", False) for phase in self._phases)

    def start(self, context: Context) -> None:
        """Let a worker begin a request."""
        self._pools[self._phases[0].device].put(context)

    def start_here(self, context: Context) -> bool:
        """Begin a request on the calling thread, and return True, if it may do a CPU worker's work just now."""
        pool = self._pools[self._phases[0].device]
        if pool.name != "cpu" or not pool.borrow():
            return False
        try:
            self._advance(context, pool)
        finally:
            pool.give_back()
        return True

    def abort(self) -> None:
        """Fail every request that is inside with `Closed` before its next phase."""
        self._aborted = True

    def stop(self, timeout: float | None) -> None:
        """Stop the workers, and close the backends."""
        for pool in self._pools.values():
            pool.stop(timeout)
        self._watchdog.stop()
        for phase in self._phases:
            phase.backend.close()

    def stats(self, uptime_s: float) -> tuple[StageStats, ...]:
        """Return each stage's numbers."""
        return tuple(self._stage_stats(number, uptime_s) for number in range(len(self._phases)))

    def utilisation(self, stages: tuple[StageStats, ...]) -> dict[str, float]:
        """Return the share of each device's worker time in use."""
        return {device: sum(s.utilisation for s in stages if s.device == device) for device in self._pools}

    def _stage_stats(self, number: int, uptime_s: float) -> StageStats:
        phase, recorders = self._phases[number], self._recorders[number]
        pool = self._pools[phase.device]
        runs = recorders.service.count
        return StageStats(
            index=phase.stage.index,
            device=phase.device,
            count=recorders.waited.count,
            failed=recorders.waited.failed,
            runs=runs,
            replaced=getattr(phase.backend, "replaced", 0),
            fallbacks=getattr(phase.backend, "fallbacks", {}),
            busy_s=recorders.service.total,
            service=recorders.service.service(),
            waited=recorders.waited.service(),
            mean_rows=recorders.rows.total / recorders.rows.count if recorders.rows.count else 0.0,
            queue=pool.depth(number),
            utilisation=recorders.service.total / (uptime_s * pool.size),
            substitution=phase.backend.substitution or "",
        )

    def _advance(self, context: Context, pool: WorkerPool) -> None:
        """Carry a request as far as this pool's device goes. Runs on a worker; a request's errors stay with it."""
        while context.phase < len(self._phases):
            phase = self._phases[context.phase]
            if phase.device != pool.name:
                self._pools[phase.device].put(context)
                return
            try:
                following = self._run_phase(phase, context, pool)
            except BaseException as error:  # whatever happens must reach the caller, not end a worker
                self._fail(context, error)
                return
            if following is None:
                return
            context = following
        self._done(context, None)

    def _run_phase(self, phase: Phase, context: Context, pool: WorkerPool) -> Context | None:
        """Run one phase; return a request that this worker goes on with."""
        if not self._may_go_on(context):
            return None
        if phase.max_batch == 1:
            return context if self._run_alone(phase, context) else None
        batch = self._gather(phase, context, pool)
        if len(batch.members) == 1:
            going = [context] if self._run_alone(phase, context) else []
        else:
            going = self._run_batch(phase, batch)
        for other in going[1:]:
            self._route(other)
        return going[0] if going else None

    def _route(self, context: Context) -> None:
        """Send a request to the workers of its next phase, or out."""
        if context.phase == len(self._phases):
            self._done(context, None)
        else:
            self._pools[self._phases[context.phase].device].put(context)

    def _may_go_on(self, context: Context) -> bool:
        """Return whether the request is still wanted; it has left if not."""
        error: BaseException
        if context.future.cancelled():
            error = CancelledError()
        elif self._aborted:
            error = Closed("the pipeline was closed before the request was finished")
        elif context.deadline is not None and context.expired():
            error = DeadlineExceeded(f"the deadline passed before stage {context.phase}")
        else:
            return True
        self._done(context, error)
        return False

    def _gather(self, phase: Phase, context: Context, pool: WorkerPool) -> Batch:
        batch = Batch(context, phase.stage.inputs, phase.max_batch)
        if batch.full or not (self._delay_s or pool.depth(context.phase)):
            return batch
        until = time.monotonic() + self._delay_s if self._delay_s else None
        gone: list[Context] = []

        def take(other: Context) -> bool:
            if other.future.cancelled() or other.expired():
                gone.append(other)
                return True
            return batch.take(other)

        pool.gather(context.phase, take, full=lambda: batch.full, until=until)
        for other in gone:
            self._may_go_on(other)
        return batch

    def _run_batch(self, phase: Phase, batch: Batch) -> list[Context]:
        """Run a batch; return the requests that go on. Members of a failed batch are run one by one, to find the culprit."""
        begin = time.perf_counter()
        shares = None
        try:
            run = lambda: phase.backend.run(batch.feeds(joined=not phase.joins))  # noqa: E731 - one of two
            shares = batch.split(self._watch(phase, batch.members, run))
        except _Abandoned:
            return []
        except BackendDied as death:
            for member in batch.members:
                member.deaths += not isinstance(death, BackendGone)
        except Exception:  # noqa: S110 - each member's own run says what is wrong
            pass
        if shares is None:
            return [member for member in batch.members if self._run_alone(phase, member)]
        self._count(phase, begin, batch.members, batch.rows)
        for member, outputs in zip(batch.members, shares, strict=True):
            _settle(phase, member, outputs)
        return batch.members

    def _run_alone(self, phase: Phase, context: Context) -> bool:
        """Run one request; return whether it goes on."""
        counted = phase.stage.batchable or context.trace is not None
        rows = count_rows([context.tensors[name] for name in phase.stage.inputs]) if counted else 1
        begin = time.perf_counter()
        try:
            outputs = self._watch(phase, [context], lambda: _run(phase, context))
        except _Abandoned:
            return False
        except PipelineError as error:
            self._recorders[context.phase].waited.add_failure("stage")
            # This frame holds the request, whose future will hold the error: through tracebacks the error would hold both.
            release_frames(error, forget=True)
            self._fail(context, error)
            return False
        self._count(phase, begin, [context], rows)
        _settle(phase, context, outputs)
        return True

    def _watch(self, phase: Phase, members: list[Context], run: Callable[[], _T]) -> _T:
        """Return the outputs of a run; give the tokens back and raise `_Abandoned` if the watchdog answered the requests."""
        watched = self._watchdog.begin(members, phase.limit_s)
        try:
            return run()
        finally:
            if not self._watchdog.end(watched):
                for member in members:
                    self._ends.leave(member)
                raise _Abandoned

    def _answer_hung(self, run: WatchedRun) -> None:
        """Answer the requests of a run that does not return. Runs on the watchdog's thread."""
        stage = self._phases[run.members[0].phase].stage
        for member in run.members:
            self._recorders[stage.index].waited.add_failure("hung")
            self._ends.abandon(member, DeadlineExceeded(f"stage {stage.index} has not returned within {run.limit_s:g} s"))

    def _count(self, phase: Phase, begin: float, members: list[Context], rows: int) -> None:
        recorders, end = self._recorders[members[0].phase], time.perf_counter()
        recorders.service.add(end - begin)
        for member in members:
            recorders.waited.add(begin - member.queued)
            if member.trace is not None:
                what: dict[str, str | int] = {"stage": phase.stage.index, "device": phase.device, "rows": rows}
                self._tracer.stage(member.trace, begin, end, what)
        if phase.stage.batchable:
            recorders.rows.add(rows)

    def _fail(self, context: Context, error: BaseException) -> None:
        release_frames(error)
        self._done(context, error)


def _run(phase: Phase, context: Context) -> dict[str, Value]:
    feeds = {name: context.tensors[name] for name in phase.stage.inputs}
    try:
        for name in phase.fetch:
            feeds[name] = as_array(feeds[name])
        return run_request(phase.backend, feeds, context)
    except BackendHung as error:
        raise DeadlineExceeded(f"stage {phase.stage.index} did not return: {error}") from error
    except Exception as error:
        shapes = {name: getattr(value, "shape", None) for name, value in feeds.items()}
        raise StageError(phase.stage.index, device=phase.device, cause=str(error), shapes=shapes) from error


def _settle(phase: Phase, context: Context, outputs: dict[str, Value]) -> None:
    """Keep what someone still needs of a phase's tensors, and go on to the next phase."""
    for name in phase.drop:
        del context.tensors[name]
    for name in phase.keep:
        context.tensors[name] = outputs[name]
    context.phase += 1
    context.deaths = 0
    context.queued = time.perf_counter()
