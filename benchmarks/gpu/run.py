"""Everything that only a real GPU can prove, in one command that knows how much time it has.

usage: python -m benchmarks.gpu.run [-o FILE] [--minutes M] [--models DIR] [--only SECTION ...] [--stand-in cpu]
       python -m benchmarks.gpu.run --prepare DIR            where there is a network
       python -m benchmarks.gpu.run -o FILE --markdown       the tables of docs/gpu.md

Each step is written to FILE when it is done; the same command goes on with what is left, and tries again what failed. Files of
the run (models, profiles, packages, traces, the recording of this GPU) lie beside it, in FILE without its suffix. A step runs
in a child process, so that a library that crashes or hangs costs one step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import material
from benchmarks.gpu.batches import MODELS, batches
from benchmarks.gpu.ceilings import ceilings
from benchmarks.gpu.costs import fit, profile_model
from benchmarks.gpu.engines import stage_backends
from benchmarks.gpu.job import Job
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.numerics import compare_model
from benchmarks.gpu.overlap import trace
from benchmarks.gpu.serving import serve, serve_engines
from benchmarks.gpu.tables import markdown
from benchmarks.gpu.usage import pci_bus_id
from cutset import serde
from cutset.errors import CutsetError, UsageError
from cutset.profilers.availability import cuda_provider
from cutset.profilers.child import Failure, Worker
from cutset.profilers.environment import environment
from cutset.profilers.gpu_state import gpu_state

SECTIONS = ("ceilings", "pipeline", "profile", "fit", "batches", "numerics", "engines", "trace", "pipeline-engines")
SLACK = 1.6
"""A step is ended when it takes so many times its share of the time."""
LEAST_S = 8.0
"""With less than this left no step begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One measurement.

    Args:
        section: Its place in the document.
        name: Its place in the section.
        seconds: That it may take.
        measure: What measures.
        follows: Whether it is made of what other steps left in files, so that each run makes it anew.
    """

    section: str
    name: str
    seconds: float
    measure: Callable[[Job], dict[str, Any]]
    follows: bool = False


def steps() -> Iterator[Step]:
    """Yield everything that is measured, the most important first."""
    first, rest = material.COUPLED[:2], material.COUPLED[2:]
    profiled = (*material.REAL[:2], *material.LIGHT, *material.LIKE, *material.REAL[2:])
    yield Step(section="ceilings", name="gpu", seconds=25, measure=ceilings)
    for name in first:
        yield Step(section="pipeline", name=name, seconds=120, measure=serve)
    for name in profiled:
        yield Step(section="profile", name=name, seconds=18, measure=profile_model)
    yield Step(section="fit", name="all", seconds=10, measure=fit, follows=True)
    for name in MODELS:
        yield Step(section="batches", name=name, seconds=20, measure=batches)
    yield Step(section="engines", name=material.REAL[0], seconds=30, measure=stage_backends)
    for name in profiled:
        yield Step(section="numerics", name=name, seconds=8, measure=compare_model)
    yield Step(section="trace", name=first[0], seconds=15, measure=trace)
    for name in rest:
        yield Step(section="pipeline", name=name, seconds=120, measure=serve)
    for name in first:
        yield Step(section="pipeline-engines", name=name, seconds=60, measure=serve_engines)


def run(journal: Journal, chosen: Sequence[Step], until: float, template: Job) -> None:
    """Measure what is not in the document yet, until the time is over: first what was never tried, then what failed."""
    waiting = [step for step in chosen if step.follows or not journal.finished(step.section, step.name)]
    waiting.sort(key=lambda step: not step.follows and journal.entry(step.section, step.name) is not None)
    with Worker() as worker:
        for step in waiting:
            left = until - time.monotonic()
            if left < LEAST_S:
                _say(f"{step.section}/{step.name}: no time left")
                continue
            seconds = min(step.seconds, left - LEAST_S / 2)
            _say(f"{step.section}/{step.name}: {seconds:.0f} s of {left:.0f} s")
            begin = time.monotonic()
            job = Job(
                name=step.name, folder=template.folder, device=template.device, seconds=seconds,
                measured_s=template.measured_s, small=template.small,
            )  # fmt: skip
            found = worker.ask(step.measure, job, time_s=min(SLACK * seconds, left))
            entry = {"failure": f"{found.kind}: {found.detail}"} if isinstance(found, Failure) else found
            journal.put(step.section, step.name, {**entry, "seconds": time.monotonic() - begin})
            if "failure" in entry:
                _say(f"{step.section}/{step.name}: {entry['failure']}")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _environment(device: int | None) -> dict[str, Any]:
    """Return the machine, and the GPU's clocks as the run begins."""
    found = environment()
    address = "" if device is None else pci_bus_id(device)
    clocks = gpu_state(address) if address else None
    return {
        **serde.to_builtins(found),
        "clocks": serde.to_builtins(clocks),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, measure or print; return the exit code."""
    options = _parser().parse_args(argv)
    if options.prepare is not None:
        size = material.prepare(options.prepare)
        _say(f"{options.prepare}: {size / 2**20:.1f} MiB")
        return 0
    if options.models is not None:
        material.use(options.models)
    try:
        journal = Journal(options.output, options.stand_in)
    except CutsetError as error:
        _say(f"error: {error}")
        return 2
    if options.markdown:
        print(markdown(journal.document))
        return 0
    return _measure(journal, options)


def _measure(journal: Journal, options: argparse.Namespace) -> int:
    begin = time.monotonic()
    lacking = None if options.stand_in else cuda_provider()
    if lacking is not None and not lacking.ready:
        _say(f"error: no GPU can be measured: {lacking.detail}\nhint: {lacking.hint}; --stand-in cpu rehearses without one")
        return 3
    device = None if options.stand_in else options.device
    folder = journal.path.resolve().with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    template = Job(name="", folder=folder, device=device, seconds=0.0, measured_s=options.seconds, small=options.small)
    journal.begin(_environment(device))
    chosen = [step for step in steps() if (not options.only or step.section in options.only)]
    chosen = [step for step in chosen if not options.names or step.name in options.names or step.section in {"ceilings", "fit"}]
    run(journal, chosen, begin + 60 * options.minutes, template)
    left = [f"{step.section}/{step.name}" for step in chosen if not journal.finished(step.section, step.name)]
    _say(f"left: {', '.join(left)}" if left else f"all done: {journal.path}")
    return 1 if left else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=9.0, help="in all; what is not reached waits for the next run")
    parser.add_argument("--models", type=Path, help="folder that --prepare filled")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="collect models and inputs, and do nothing else")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--names", nargs="+", metavar="MODEL", help="of the models in a section, only these")
    parser.add_argument("--device", type=int, default=0, help="number of the GPU as CUDA counts them")
    parser.add_argument("--stand-in", choices=["cpu"], default="", help="rehearse without a GPU; the document says so")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one repeated measurement")
    parser.add_argument("--small", action="store_true", help="the smallest case of each kind: a rehearsal")
    parser.add_argument("--markdown", action="store_true", help="print the tables from the document, measure nothing")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        sys.exit(f"error: {error}")
