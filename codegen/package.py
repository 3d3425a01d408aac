"""Write the output folder of `partition`: plan, profile, report, manifest and the serving package, all or nothing."""

from __future__ import annotations

import contextlib
import datetime
import functools
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cutset import __version__, serde
from cutset.advisory import advisory, skipped_steps
from cutset.cascade import hooks
from cutset.codegen.atomic import new_folder
from cutset.codegen.batchability import Batchability, prove_all
from cutset.codegen.engines.deploy import deploy, store_samples
from cutset.codegen.engines.feedback import Engineered
from cutset.codegen.export.source import Source
from cutset.codegen.export.write import Exports, write_exports
from cutset.codegen.full_load import full_load
from cutset.codegen.gil import executions
from cutset.codegen.least_sizes import add_least_sizes
from cutset.codegen.loose_symbols import free_loose_symbols
from cutset.codegen.numerics import Tolerance
from cutset.codegen.project import write_project
from cutset.codegen.report import write_plain_report, write_report
from cutset.codegen.report.material import GRAPH
from cutset.codegen.report.topology import dump_topology, topology_of
from cutset.codegen.runtime import DegradedWarning, Pipeline
from cutset.codegen.runtime.defaults import FILE as DEFAULTS
from cutset.codegen.split import write_stages
from cutset.codegen.verify import Verification, verify
from cutset.digest import sha256_file
from cutset.graph.load import EXTENSIONS_MODULE
from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Plan
from cutset.profilers.inputs import SampleInputs, write_npz
from cutset.profilers.table import CostTable

MANIFEST_SCHEMA = "cutset.manifest/1"
RUNTIME = Path(__file__).with_name("runtime")
MAX_PACKAGE_STEM = 100
"""Longest stem of a package's name; file systems end at 255 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTogether:
    """What a plan does not cut because the proof of an earlier one failed, as plan.json holds it.

    Args:
        sentence: What was done and why, with both numbers.
        nodes: The nodes; empty where the model was left whole.
    """

    sentence: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitOptions:
    """How to emit.

    Args:
        force: Replace an existing output folder.
        tolerance: What counts as equal numbers.
        command: The command line, for the manifest.
        seconds: Time spent so far, by step, for the manifest.
        progress: Told what is being done.
        engines: What the GPU stages are built from, and their engines; None leaves them to onnxruntime.
        documents: Texts to write beside the plan, by file name.
        exports: What to write besides the package.
        kept_together: What earlier plans cut and this one does not.
        keep_rows: Whether rows that the model fixes stay fixed.
        load_s: Seconds to run the package at full load, where all its devices are here; zero leaves that out.
    """

    force: bool = False
    tolerance: Tolerance = Tolerance()  # noqa: RUF009 - frozen
    command: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda _text: None
    engines: Engineered | None = None
    documents: Mapping[str, str] = field(default_factory=dict)
    exports: Exports = Exports()  # noqa: RUF009 - frozen
    kept_together: tuple[KeptTogether, ...] = ()
    keep_rows: bool = False
    load_s: float = 0.0


def package_name(name: str) -> str:
    """Return the importable name of the serving package of a model called `name`, for example ``resnet_50_serving``."""
    stem = re.sub(r"[^0-9a-zA-Z]+", "_", name)[:MAX_PACKAGE_STEM].strip("_").lower()
    if not stem or stem[0].isdigit():
        stem = f"m_{stem}".rstrip("_")
    return f"{stem}_serving"


def emit(
    graph: ModelGraph, plan: Plan, table: CostTable, samples: SampleInputs, target: Path, options: EmitOptions
) -> Verification:
    """Write the package to `target` after proving on `samples` that it equals the whole model.

    Args:
        graph: The model.
        plan: Its plan.
        table: The costs behind it.
        samples: Inputs to verify with.
        target: The output folder.
        options: How to emit.

    Raises:
        VerificationError: If the parts do not equal the whole; nothing is written.
        UsageError: If `target` exists.
    """
    with new_folder(target, force=options.force) as work:
        serving = work / "serving"
        package = serving / package_name(plan.name)
        package.mkdir(parents=True)
        options.progress("writing the stages")
        write_stages(graph, plan.stages, package)
        custom_ops = _copy_custom_ops(graph, package)
        document = plan.as_json() | {"custom_ops": custom_ops, **_of_the_file(graph)}
        document["kept_together"] = serde.to_builtins(options.kept_together)
        document["loose_symbols"] = free_loose_symbols(document["inputs"], samples.samples)
        write_defaults(graph, package, document["inputs"])
        if options.engines is not None:
            deploy(options.engines, package, document)
            store_samples(graph, options.engines, package, document, samples.samples[0], options.tolerance.rtol)
        options.progress("proving which stages can be batched")
        _examine(graph, plan, package, samples, document, keep_rows=options.keep_rows)
        (package / "plan.json").write_text(serde.dumps(document), "utf-8")
        _copy_runtime(package)
        write_project(plan, samples, serving, package.name, custom_ops)
        options.progress("trying inputs of no rows")
        document["least_sizes"] = []
        with advisory("trying inputs of no rows"):
            add_least_sizes(graph, package, samples.samples[0], document)
        options.progress("verifying that the parts equal the whole")
        (package / "plan.json").write_text(serde.dumps(document), "utf-8")
        engines = {entry["index"] for entry in document["stages"] if entry.get("engine")}
        proof, rate = _verify(graph, package, samples, options, engines)
        document = document | {"verification": serde.to_builtins(proof)}
        if rate is not None:
            reached = {"throughput_per_s": rate, "prediction_error": plan.prediction.throughput_per_s / rate - 1}
            document["calibration"] = {**(document["calibration"] or {}), "pipeline": reached}
        _write_evidence(graph, table, work, options)
        _write_plan_and_report(document, work, package)
        source = Source(package=package, document=document, graph=graph, sample=samples.samples[0])
        write_exports(source, work, options.exports)
        (work / "manifest.json").write_text(serde.dumps(_manifest(work, graph, table, options)), "utf-8")
    return proof


def _examine(
    graph: ModelGraph, plan: Plan, package: Path, samples: SampleInputs, document: dict[str, Any], *, keep_rows: bool
) -> None:
    """Say of each stage in the plan's document whether its requests may share a run, and where it runs."""
    engines = {entry["index"] for entry in document["stages"] if keep_rows or entry.get("engine")}
    batching = [Batchability(proven=False, reason="it could not be examined") for _ in plan.stages]
    with advisory("proving which requests share a run"):
        batching = prove_all(graph, plan.stages, package, samples.samples, keep=engines)
    execution = ["thread"] * len(plan.stages)
    with advisory("looking for stages that hold Python's lock"):
        execution = executions(graph, plan.stages, package, samples.samples[0])
    for entry, finding, kind in zip(document["stages"], batching, execution, strict=True):
        entry |= {"batching": serde.to_builtins(finding), "execution": kind, "keeps_dropout": graph.keeps_dropout}


def _write_evidence(graph: ModelGraph, table: CostTable, work: Path, options: EmitOptions) -> None:
    """Write what the plan was made from."""
    for name, text in options.documents.items():
        (work / name).write_text(text, "utf-8")
    (work / "profile.json").write_text(serde.dumps(table), "utf-8")
    with advisory("drawing the graph"):
        (work / GRAPH).write_text(dump_topology(topology_of(graph)), "utf-8")


def _write_plan_and_report(document: dict[str, Any], work: Path, package: Path) -> None:
    """Write plan.json and the report, both with the advisory steps that failed; a plain page where no report can be drawn."""

    def write_plan() -> None:
        document["skipped"] = skipped_steps()
        for folder in (work, package):
            (folder / "plan.json").write_text(serde.dumps(document), "utf-8")

    write_plan()
    drawn = False
    with advisory("drawing the report"):
        write_report(work)
        drawn = True
    if not drawn:
        write_plan()
        write_plain_report(work, document["verdict"], document["skipped"])


def _verify(
    graph: ModelGraph, package: Path, samples: SampleInputs, options: EmitOptions, engines: Collection[int]
) -> tuple[Verification, float | None]:
    """Return the proof, and the requests a second at full load if that is wanted and every device is here.

    The proof names the stages, of those that the package runs as engines, that ran in onnxruntime instead.
    """
    with contextlib.ExitStack() as stack:

        @functools.cache
        def pipeline() -> Pipeline:
            """Load the pipeline when the whole model's sessions are gone: one copy of the weights less."""
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DegradedWarning)  # without a GPU its stages are proven on the CPU
                return stack.enter_context(Pipeline.load(package))

        proof = verify(
            graph, samples.samples, lambda sample: pipeline().run(sample), origin=samples.origin, tolerance=options.tolerance
        )
        elsewhere = {stage.index for stage in pipeline().stats().stages if stage.substitution}
        proof = replace(proof, unproven_engines=tuple(sorted(elsewhere.intersection(engines))))
        if not options.load_s:
            return proof, None
        options.progress("running the package at full load")
        with advisory("running the package at full load"):
            return proof, full_load(pipeline(), samples.samples[0], options.load_s)
        return proof, None


def _of_the_file(graph: ModelGraph) -> dict[str, Any]:
    """Return what the package keeps of the model's file beside the graph."""
    return {"metadata": dict(graph.metadata), "frozen_inputs": list(graph.frozen_inputs)}


def write_defaults(graph: ModelGraph, package: Path, entries: list[dict[str, Any]]) -> None:
    """Write the defaults of inputs that a request may leave out, and mark these inputs in the plan."""
    defaults = {spec.name: spec.default for spec in graph.inputs if spec.default is not None}
    for entry in entries:
        if entry["name"] in defaults:
            entry["optional"] = True
    if defaults:
        write_npz(package / DEFAULTS, defaults)


def _copy_runtime(package: Path) -> None:
    shutil.copytree(RUNTIME, package / "runtime", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def _copy_custom_ops(graph: ModelGraph, package: Path) -> list[dict[str, str]]:
    """Copy custom-operator libraries into the package; onnxruntime-extensions is required as a package instead."""
    entries = []
    for index, library in enumerate(graph.custom_ops):
        if EXTENSIONS_MODULE in Path(library).parts:
            entries.append({"module": EXTENSIONS_MODULE})
            continue
        place = package / "custom_ops" / f"{index:02d}{Path(library).suffix}"
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(library, place)
        entries.append({"file": place.relative_to(package).as_posix()})
        if place.suffix == hooks.SUFFIX:  # what calls the Python functions in it
            entries.append({"module": EXTENSIONS_MODULE})
    return [entry for index, entry in enumerate(entries) if entry not in entries[:index]]


def _manifest(work: Path, graph: ModelGraph, table: CostTable, options: EmitOptions) -> dict[str, Any]:
    files = sorted(path for path in work.rglob("*") if path.is_file())
    return {
        "schema": MANIFEST_SCHEMA,
        "cutset": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(options.command),
        "model_path": str(graph.path.resolve()),
        "seconds": {name: round(value, 3) for name, value in options.seconds.items()},
        "environment": dict(table.environment),
        "files": {path.relative_to(work).as_posix(): sha256_file(path) for path in files},
    }
