"""The emitted pipeline with every stage on workers of its planned device, and a record of what each ran.

Where a GPU is missing its stages run on a CPU core, but by a worker of their own, so that the pipeline keeps its shape.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from cutset.codegen.runtime.backends import load_stage
from cutset.codegen.runtime.backends.base import BackendOptions, StageBackend
from cutset.codegen.runtime.backends.device import as_array
from cutset.codegen.runtime.config import PlanConfig, StageConfig, read_plan
from cutset.codegen.runtime.dtypes import Value
from cutset.codegen.runtime.pipeline import Pipeline
from cutset.codegen.runtime.schedule import places, replicas
from cutset.codegen.runtime.supervised import Supervised
from cutset.partitioner.simulate import Span

CHANGE_S = 0.125
"""Seconds after which another core stands in: on a shared machine one can be half as fast again as the next."""


_sides: dict[threading.Thread, bool] = {}
_lock = threading.Lock()
_core: int | None = None


@functools.cache
def _usable() -> tuple[int, ...]:
    """Return the cores of the process's first thread, which `keep` leaves alone."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return ()
    return tuple(sorted(os.sched_getaffinity(os.getpid())))


def keep(*, stand_in: bool) -> None:
    """Keep this thread from now on to the core that stands in for a GPU just now, or to the others.

    It is another core after `CHANGE_S`, so that every turn meets them all; whoever notices moves all threads at once, in the
    middle of their runs too, for a core that was left by one of them only would stand idle while two share another. The
    process's first thread is left alone, for what it starts would be kept where it is. Where there is one core, nothing
    is kept from it.
    """
    global _core
    usable, own = _usable(), threading.current_thread()
    if len(usable) < 2 or own is threading.main_thread():
        return
    core = usable[int(time.monotonic() / CHANGE_S) % len(usable)]
    if core == _core and _sides.get(own) is stand_in:
        return
    with _lock:
        moved = {own} if core == _core else {own, *_sides}
        _core, _sides[own] = core, stand_in
        for thread in moved:
            if not thread.is_alive() or thread.native_id is None:
                del _sides[thread]
                continue
            with contextlib.suppress(ProcessLookupError):  # it ends just now
                os.sched_setaffinity(thread.native_id, {core} if _sides[thread] else {*usable} - {core})


class Watched:
    """A loaded stage that stays on its planned device's workers and can write down its runs.

    Args:
        stage: The stage's configuration.
        inner: The loaded stage.

    Attributes:
        apart: Whether some stage stands in for a GPU on a core that the others leave to it.
    """

    def __init__(self, stage: StageConfig, inner: Supervised) -> None:
        self.stage = stage
        self.inner = inner
        self.device = stage.device
        self.stands_in = inner.device != stage.device
        self.slots = 1 if self.stands_in else inner.slots
        self.max_batch = 1 if self.stands_in else inner.max_batch
        self.joins = not self.stands_in and inner.joins
        self.apart = False
        self.runs: list[tuple[float, float]] | None = None

    @property
    def substitution(self) -> str | None:
        """Why the stage is not where it was planned."""
        return self.inner.substitution

    @property
    def healthy(self) -> bool:
        """Whether its backend lives."""
        return self.inner.healthy

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run."""
        if self.stands_in:  # what another stage left on a GPU comes here through the host
            feeds = {name: as_array(value) for name, value in feeds.items()}
        runs, begin = self.runs, time.perf_counter()
        if self.apart:
            keep(stand_in=self.stands_in)
        outputs = self.inner.run(feeds)
        if runs is not None:
            runs.append((begin, time.perf_counter()))
        return outputs

    def close(self) -> None:
        """Release the stage."""
        self.inner.close()


class Deployed:
    """A package's pipeline, loaded.

    Args:
        package: The folder of the serving package.
        overrides: Sizes instead of the plan's, as `Pipeline.load` takes them.

    Raises:
        ConfigError: If the package cannot be loaded.
    """

    def __init__(self, package: Path, **overrides: float) -> None:
        plan = read_plan(package).override(overrides)
        if "cpu_workers" not in overrides:
            plan = replace(plan, cpu_workers=replicas(plan))
        options = BackendOptions.of(plan)
        self.plan: PlanConfig = plan
        self.stages: list[Watched] = []
        try:
            for planned in plan.stages:
                stage = replace(planned, wanted=places(plan, planned))
                self.stages.append(Watched(stage, Supervised(partial(load_stage, stage, options))))
            for entry in self.stages:
                entry.apart = bool(self.stand_ins)
            backends: list[StageBackend] = list(self.stages)
            self.pipeline = Pipeline(plan, backends)
        except BaseException:
            for entry in self.stages:
                entry.close()
            raise

    @property
    def stand_ins(self) -> list[int]:
        """Stages that run on the CPU for want of a GPU."""
        return [entry.stage.index for entry in self.stages if entry.stands_in]

    @property
    def servers(self) -> dict[str, int]:
        """Workers of each device."""
        slots = [entry.slots for entry in self.stages if entry.device == "gpu"]
        return {"cpu": self.plan.cpu_workers} | ({"gpu": min(slots)} if slots else {})

    @property
    def cores(self) -> int:
        """CPU cores that it keeps busy, one to feed a GPU or to stand in for it among them."""
        return self.plan.cpu_workers * self.plan.intra_op_threads + ("gpu" in self.servers)

    def watch(self) -> None:
        """Begin to write down runs."""
        for entry in self.stages:
            entry.runs = []

    def seen(self) -> list[Span]:
        """Return what ran since `watch`, by its begin, and stop writing.

        The request of a span is the how-manieth run of its stage.
        """
        spans = []
        for entry in self.stages:
            index, device = entry.stage.index, entry.device
            for number, (begin, end) in enumerate(sorted(entry.runs or ())):
                spans.append(Span(step=index, resource=device, server=0, requests=(number,), start_s=begin, end_s=end))
            entry.runs = None
        return _on_few_servers(sorted(spans, key=lambda span: span.start_s))

    def feeds(self, sample: Mapping[str, Value]) -> list[dict[str, Value]]:
        """Return what each stage reads of one request."""
        values: dict[str, Value] = dict(sample)
        found = []
        for entry in self.stages:
            feeds = {name: values[name] for name in entry.stage.inputs}
            found.append(feeds)
            values |= entry.inner.run(feeds)
        return found

    def close(self) -> None:
        """Finish what is under way and release the stages."""
        self.pipeline.close()


def _on_few_servers(spans: list[Span]) -> list[Span]:
    """Return spans on as few rows as they need: callers' own threads do workers' work, under a worker's permit."""
    free_from: dict[str, list[float]] = {}
    placed = []
    for span in spans:
        ends = free_from.setdefault(span.resource, [])
        row = next((row for row, end in enumerate(ends) if end <= span.start_s), len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = span.end_s
        placed.append(replace(span, server=row))
    return placed
