"""Fill the report's template from a plan and the costs behind it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from cutset.codegen.report import text
from cutset.codegen.report.diff import diff_view
from cutset.codegen.report.lanes import details_of, lanes_of
from cutset.codegen.report.material import REPORT, Material, read_material
from cutset.codegen.report.picture import draw
from cutset.codegen.report.precisions import charts_of as precision_charts
from cutset.codegen.report.precisions import rows_of as precision_rows
from cutset.codegen.report.spent import roofline, shares, sources
from cutset.codegen.report.timeline import Timeline, measured, simulated
from cutset.codegen.report.units import Refusal, Unit, dearest, placed_s, refusals, units
from cutset.codegen.report.whatif import charts
from cutset.files import write_atomic
from cutset.partitioner.baselines import WORDS

TEMPLATES = Path(__file__).parents[1] / "templates"

DEAREST = 30
OPEN_NODES = 300
"""Models with more nodes than this have the list of each stage folded."""
FIRST_NODES = 6
FIRST_REFUSALS = 40
"""Kinds of reasons shown; a hostile model may have as many as nodes."""

BASELINES = WORDS | {"all_cpu": "the whole model on the CPU, on every core"}
SHORT_BASELINES = {
    "all_cpu": "all CPU",
    "all_gpu": "all GPU",
    "capability_first": "everything the GPU takes there",
    "within_limits": "that within the limits",
    "mix": "a mix",
}
RESOURCES = {"cpu": "CPU workers", "gpu": "GPU", "h2d": "copies to the GPU", "d2h": "copies from the GPU"}
ENDS = {"gpu_low": "fast end: every GPU time at its lowest", "gpu_high": "slow end: every GPU time at its highest"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A number at the top of the page, with a label, a source and a note on the meaning."""

    label: str
    value: str
    source: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row of a bar chart: `share` of the longest bar, from 0 to 1."""

    label: str
    share: float
    cells: tuple[str, ...]
    source: str = ""
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """The units of one stage, or those of none."""

    title: str
    device: str
    nodes: int
    units: tuple[tuple[int, Unit], ...]
    """With their numbers among all units."""


def write_report(folder: Path) -> Path:
    """Write the report of an output folder of `partition` into it, whole or not at all, and return its path.

    Raises:
        UsageError: If the folder holds no plan, or a file of another version.
        OSError: If the file cannot be written.
    """
    return write_atomic(folder / REPORT, render_report(read_material(folder)).encode())


def write_plain_report(folder: Path, verdict: str, skipped: Sequence[Mapping[str, str]]) -> Path:
    """Write a page that holds only the verdict and why there is no more, for a plan of which no report can be drawn.

    Args:
        folder: The output folder.
        verdict: The plan's.
        skipped: Entries of the plan's ``skipped``.

    Raises:
        OSError: If the file cannot be written.
    """
    page = _templates().get_template("plain_report.html.j2").render(verdict=verdict, skipped=skipped)
    return write_atomic(folder / REPORT, page.encode())


def render_report(material: Material) -> str:
    """Return the report of a plan: one HTML page that refers to nothing outside itself.

    Equal arguments give equal pages. Whatever came from the model is escaped, and made visible, where it is printed.
    """
    return _templates().get_template("report.html.j2").render(_variables(material))


@cache
def _templates() -> jinja2.Environment:
    """Return the templates, compiled once in a process."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    environment.filters |= {
        name: getattr(text, name) for name in ("seconds", "microseconds", "size", "counted", "percent", "rate", "times")
    }
    return environment


def _visible(value: Any) -> Any:
    """Make text safe to read; what the template already marked as HTML passes."""
    return text.visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _variables(material: Material) -> dict[str, Any]:
    document, table = material.plan, material.table
    found = units(document, table)
    kinds = refusals(found)
    source = gpu_source(document)
    top = dearest(found, DEAREST)
    total = sum(placed_s(unit) or 0.0 for unit in found)
    precisions = precision_rows(document.get("engines"))
    ops = {node.name: node.op for node in material.topology.nodes}
    return {
        "plan": document,
        "bench": material.bench,
        "diff": None if material.diff is None else diff_view(material.diff),
        "fastest": max((row["throughput_per_s"] for row in (material.bench or {"rows": ()})["rows"]), default=0.0) or 1.0,
        "files": material.files,
        "source": source,
        "gpu": document["target"]["gpu"],
        "facts": _facts(document, source, found),
        "picture": draw(document, source),
        "lanes": lanes_of(material, found, ops, source),
        "details": details_of(material, found, ops, kinds),
        "devices": sorted({unit.device for unit in found if unit.stage is not None}),
        "operators": sorted({op for unit in found if unit.stage is not None for name in unit.nodes if (op := ops.get(name))}),
        "busy": _busy(document, source),
        "baselines": _baselines(document, source),
        "ends": _ends(document),
        "shares": shares(found),
        "roofline": roofline(found, document["target"]["gpu"]),
        "timelines": _timelines(material),
        "batches_measured": document.get("batch_scaling", "overheads") != "overheads",
        "whatif": charts(document, table, material.explored, material.capacity),
        "explored": material.explored,
        "capacity": material.capacity,
        "dearest": top,
        "dearest_max": max((value for unit in top for value in (unit.cpu_s, unit.gpu_s) if value), default=0.0),
        "dearest_share": sum(placed_s(unit) or 0.0 for unit in top) / total if total else 0.0,
        "unit_count": sum(unit.stage is not None for unit in found),
        "held_back": document.get("held_back"),
        "refusals": kinds[:FIRST_REFUSALS],
        "more_refusals": kinds[FIRST_REFUSALS:],
        "first_nodes": FIRST_NODES,
        "numbers": _numbers(kinds),
        "chapters": _chapters(document, found),
        "folded": len(document["placement"]) > OPEN_NODES,
        "proof": document.get("verification"),
        "environment": _environment(table.environment),
        "sessions": table.sessions,
        "runs": [_run(stage, document.get("engines")) for stage in document["stages"]],
        "engines": document.get("engines"),
        "precisions": precisions,
        "precision_charts": precision_charts(precisions),
        "front": document.get("pareto", ()),
        "command": _command(document),
    }


def _timelines(material: Material) -> list[tuple[str, Timeline]]:
    found = [
        ("simulated", simulated(material.plan)),
        ("measured", None if material.bench is None else measured(material.bench)),
    ]
    return [(word, timeline) for word, timeline in found if timeline is not None]


def gpu_source(document: Mapping[str, Any]) -> str:
    """Return the word that goes beside what depends on the GPU: ``modelled``, ``recorded``; empty where measured."""
    gpu = document["target"]["gpu"]
    source = str(document["target"]["source"])
    return "" if gpu is None or source == "measured" else source


def _facts(document: Mapping[str, Any], source: str, found: Sequence[Unit]) -> list[Fact]:
    prediction = document["prediction"]
    here = "" if document["decision"] == "unsplit-cpu" else source
    shared = sources(found)
    share, word = (shared[0][1], shared[0][0]) if shared else (0.0, "no cost")
    others = ", ".join(f"{text.percent(value)} {name}" for name, value in shared[1:])
    return [
        Fact(label="Predicted throughput", value=f"{text.rate(prediction['throughput_per_s'])} /s", source=here,
             note=_gains(document)),
        Fact(label="Predicted latency", value=text.seconds(prediction["latency_s"]), source=here,
             note="one request alone: stages and copies added up"),
        Fact(label="Bottleneck", value=RESOURCES.get(prediction["bottleneck"], prediction["bottleneck"]), source=here,
             note="the resource that limits the throughput"),
        Fact(label="Gap to the proven bound", value=text.percent(prediction["gap"]), source=source,
             note="this plan against what no placement can beat"),
        Fact(label="Costs behind it", value=f"{share:.0%} {word}", source="",
             note="of the time where nodes run" + (f"; {others}" if others else "")),
    ]  # fmt: skip


def _gains(document: Mapping[str, Any]) -> str:
    """Return the throughput over that of each plan it has to beat."""
    mine = document["prediction"]["throughput_per_s"]
    known = document["baselines"] if document["target"]["gpu"] is not None else {"all_cpu": document["baselines"]["all_cpu"]}
    gains = [
        f"{text.times(mine / entry['throughput_per_s'])} {SHORT_BASELINES.get(name, name)}"
        for name, entry in known.items()
        if entry is not None and entry["throughput_per_s"]
    ]
    return "at full load: " + ", ".join(gains) if gains else "requests a second at full load"


def _busy(document: Mapping[str, Any], source: str) -> list[Bar]:
    """Return how busy each resource is; a model left whole has one resource, and that is full."""
    if document["decision"] != "split":
        return []
    busy = document["prediction"]["utilisation"]
    return [
        Bar(label=RESOURCES.get(name, name), share=min(1.0, value), cells=(text.percent(value),), source=source)
        for name, value in busy.items()
    ]


def _baselines(document: Mapping[str, Any], source: str) -> list[Bar]:
    """Return the unsplit and greedy plans and this one, as shares of the fastest; without a GPU, those that need none."""
    known = document["baselines"]
    if document["target"]["gpu"] is None:
        known = {name: entry for name, entry in known.items() if name == "all_cpu"}
    prediction = document["prediction"]
    mine = prediction["throughput_per_s"]
    here = "" if document["decision"] == "unsplit-cpu" else source
    this = {"throughput_per_s": mine, "latency_s": prediction["latency_s"], "stages": len(document["stages"])}
    rows = [(_baseline_title(name, entry), entry, source if name != "all_cpu" else "")
            for name, entry in known.items()]  # fmt: skip
    rows.append(("this plan", this, here))
    fastest = max((entry["throughput_per_s"] for _, entry, _ in rows if entry), default=0.0) or 1.0
    return [
        Bar(
            label=label,
            share=entry["throughput_per_s"] / fastest if entry else 0.0,
            cells=_baseline_cells(entry, mine),
            source=word if entry else "",
            chosen=entry is this,
        )
        for label, entry, word in rows
    ]


def _baseline_title(name: str, entry: Mapping[str, Any] | None) -> str:
    """Return what a baseline does, and whether no package can be made of it."""
    possible = entry is None or entry.get("deployable", True)
    return BASELINES.get(name, name) + ("" if possible else " (no package can)")


def _baseline_cells(entry: Mapping[str, Any] | None, mine: float) -> tuple[str, ...]:
    if entry is None:
        return ("impossible", "–", "–", "–")
    rate = entry["throughput_per_s"]
    ratio = text.times(mine / rate) if rate else "–"
    return text.rate(rate), ratio, text.seconds(entry["latency_s"]), str(entry["stages"])


def _ends(document: Mapping[str, Any]) -> list[tuple[str, str, str, str, int]]:
    """Return for each end of the GPU's interval: its name, throughput, gain over which plan, and groups to be moved there."""
    return [
        (
            ENDS.get(name, name),
            text.rate(end["throughput_per_s"]),
            "–" if end["gain"] is None else text.times(end["gain"]),
            BASELINES.get(end.get("against"), "the best unsplit plan"),
            end["moved_groups"],
        )
        for name, end in document["robustness"].items()
    ]


def _numbers(kinds: Sequence[Refusal]) -> dict[str, int]:
    """Return the number of the refusal that holds each node, for references from the lists of nodes."""
    return {name: kind.number for kind in kinds for name in kind.nodes}


def _chapters(document: Mapping[str, Any], found: Sequence[Unit]) -> list[Chapter]:
    chapters = []
    for stage in [*document["stages"], None]:
        index = None if stage is None else stage["index"]
        members = tuple((number, unit) for number, unit in enumerate(found) if unit.stage == index)
        if members:
            device = "" if stage is None else stage["device"]
            title = "In no stage: weights and dead nodes" if stage is None else f"Stage {index} on the {device.upper()}"
            count = sum(len(unit.nodes) for _, unit in members)
            chapters.append(Chapter(title=title, device=device, nodes=count, units=members))
    return chapters


def _run(stage: Mapping[str, Any], engines: Mapping[str, Any] | None) -> tuple[str, tuple[str, ...]]:
    """Return the device of a stage; and its backend, precision, engine and whether it takes batches."""
    engine, batching = stage.get("engine"), stage.get("batching")
    built = "none needed"
    if engine is not None:
        built = "built" if engines is not None and stage["index"] in engines["built"] else "is built where it serves"
    batches = "not examined"
    if batching is not None:
        batches = "proven" if batching["proven"] else f"no: {batching['reason']}"
    precision = "that of the model" if engine is None else engine["precision"]
    return stage["device"], (stage["backend"], precision, built, batches)


def _environment(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of the machine that measured, in words."""
    rows = []
    for name, value in environment.items():
        if value is None or (isinstance(value, list | tuple) and not value):
            continue
        if name.endswith("_bytes"):
            shown = text.size(value)
        elif isinstance(value, Mapping):
            shown = ", ".join(f"{key} {entry}" for key, entry in value.items())
        elif isinstance(value, list | tuple):
            shown = ", ".join(f"{entry:.2f}" if isinstance(entry, float) else str(entry) for entry in value)
        else:
            shown = str(value)
        rows.append((name.removesuffix("_bytes").replace("_", " "), shown))
    return rows


def _command(document: Mapping[str, Any]) -> str:
    """Return a command that plans the same model with the same settings."""
    gpu, options = document["target"]["gpu"], document["options"]
    target = "cpu" if gpu is None else "profile.json" if gpu.get("source") == "recorded" else gpu.get("id", "auto")
    words = ["cutset", "partition", document["model"]["file"], "-o", "DIR", "--target", str(target)]
    words += ["--objective", document["objective"], "--batch", str(document["batch"])]
    words += ["--max-stages", str(options["max_stages"]), "--seed", str(options["seed"])]
    return shlex.join(words)
