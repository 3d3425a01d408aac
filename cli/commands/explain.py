"""`cutset explain`: why every node is where it is, what crosses, what forces a stage, and what a change would buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

from cutset import serde
from cutset.advisory import advisory, skipped_steps
from cutset.cli.arguments import split_arguments
from cutset.cli.backend import backend_option
from cutset.cli.options import cost_options, model_options, shared
from cutset.cli.output import Output, print_held_back, seconds, size
from cutset.cli.packages import read_plan_document
from cutset.cli.plan_arguments import PlanArguments, plan_options, served_name
from cutset.cli.planning import Planner, prepare
from cutset.errors import UsageError
from cutset.partitioner.explain import (
    Crossing,
    Forced,
    Reach,
    WhatIf,
    best_reach,
    crossings,
    forced_stages,
    score,
    trade_offs,
    what_ifs,
)
from cutset.partitioner.judge import MIN_GAIN
from cutset.partitioner.study import Study, read_study, study_of

SHOWN = 40
"""Nodes and tensors shown without --json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What was found out by planning again."""

    now: Reach
    forced: tuple[Forced, ...] = ()
    what_if: tuple[WhatIf, ...] = ()
    trade_offs: tuple[Reach, ...] = ()


@click.command(name="explain")
@click.argument("subject", metavar="DIR|MODEL", type=click.Path(path_type=Path))
@click.argument("nodes", metavar="[NODE-GLOB]", required=False)
@backend_option
@plan_options
@model_options
@cost_options
@shared
def command(subject: Path, nodes: str | None, output: Output, **arguments: Any) -> None:
    """Say why every node is where it is: of an output folder of `partition`, or of a model that is planned first.

    With NODE-GLOB only the reasons of those nodes are shown, at once. Without it the plan is made again for each change:
    without the nodes that force a stage, with more stages, workers, bandwidth.
    """
    document, study = _read(subject) if subject.is_dir() else _plan(subject, arguments, output)
    rows = _nodes(document, nodes)
    if nodes is not None:
        _show_nodes(document, rows, output)
        return
    with output.progress() as progress:
        progress("planning again for each change")
        answers = _answers(study)
    if output.as_json:
        output.json(
            {
                "verdict": document["verdict"], "held_back": document.get("held_back"),
                "comparison": document.get("comparison"), "nodes": rows,
                "crossings": serde.to_builtins(crossings(study)),
                "prices": dict(study.prices), **serde.to_builtins(answers),
                "skipped": skipped_steps(),
            }
        )  # fmt: skip
        return
    output.line(document["verdict"])
    if document.get("held_back") is not None:
        print_held_back(document["held_back"], str(document["target"]["source"]), output)
    _show_crossings(crossings(study), document, output)
    _show_made(document, answers.now, study, output)
    _show_answers(answers, study, output)
    output.line("why a node is where it is: cutset explain " + f"{subject} 'NODE-GLOB'")


def _answers(study: Study) -> Answers:
    """Return the answers about a plan; a question that fails has none."""
    answers = Answers(now=best_reach(study))
    with advisory("asking what forces a stage"):
        answers = replace(answers, forced=tuple(forced_stages(study, answers.now)))
    with advisory("asking what a change would buy"):
        answers = replace(answers, what_if=tuple(what_ifs(study, answers.now)))
    with advisory("asking what trades latency for throughput"):
        return replace(answers, trade_offs=tuple(trade_offs(study)))
    return answers


def _read(directory: Path) -> tuple[dict[str, Any], Study]:
    document = read_plan_document(directory)
    path = directory / "problem.json"
    if not path.is_file():
        raise UsageError(f"{directory} holds no problem.json", hint="partition the model again with this version of cutset")
    return document, read_study(path)


def _plan(model: Path, arguments: dict[str, Any], output: Output) -> tuple[dict[str, Any], Study]:
    gpu_backend = arguments.pop("gpu_backend")
    wanted = PlanArguments.take(served_name(None, model), arguments)
    about, costs = split_arguments(model, arguments)
    with output.progress() as progress:
        planner = Planner(about=about, costs=costs, wanted=wanted, output=output, progress=progress)
        planning = prepare(planner, gpu_backend)
        outcome = planning.outcome_of({})
        made = planning.final(outcome.plan)
    return made.as_json(), study_of(outcome)


def _nodes(document: dict[str, Any], pattern: str | None) -> list[dict[str, Any]]:
    """Return device, stage and reason of the nodes that a pattern matches, a name that reads as a glob meaning itself."""
    home = {name: stage["index"] for stage in document["stages"] for name in stage["nodes"]}
    names: Sequence[str] = list(document["placement"])
    if pattern is not None:
        names = [pattern] if pattern in document["placement"] else [name for name in names if fnmatchcase(name, pattern)]
        if not names:
            raise UsageError(f"{pattern!r} matches no node", hint=f"for example {', '.join(list(document['placement'])[:6])}")
    return [
        {"node": name, "device": document["placement"][name], "stage": home.get(name), "reason": document["reasons"][name]}
        for name in names
    ]


def _show_nodes(document: dict[str, Any], rows: list[dict[str, Any]], output: Output) -> None:
    if output.as_json:
        output.json({"verdict": document["verdict"], "nodes": rows})
        return
    for row in rows[:SHOWN]:
        stage = "no stage" if row["stage"] is None else f"stage {row['stage']}"
        output.line(f"{row['node']}: {row['device'].upper()}, {stage}: {row['reason']}")
    if len(rows) > SHOWN:
        output.line(f"... and {len(rows) - SHOWN} more (--json lists all)")


def _show_crossings(found: Sequence[Crossing], document: dict[str, Any], output: Output) -> None:
    if found:
        source = document["target"]["source"]
        rows = [(c.tensor, c.direction, size(c.size_bytes), f"{seconds(c.seconds)} ({source})") for c in found[:SHOWN]]
        output.table("What is copied", ("tensor", "direction", "bytes", "time"), rows)


def _show_made(document: dict[str, Any], best: Reach, study: Study, output: Output) -> None:
    """Write what the plan that was made reaches where that is not the best plan of the search, which was refused."""
    found = document["prediction"]
    made = Reach(
        throughput_per_s=found["throughput_per_s"], latency_s=found["latency_s"], stages=max(1, len(document["stages"]))
    )
    if study.latency_limit_s is None and score(study, best) > score(study, made) * (1 + MIN_GAIN):
        output.line(f"the plan that was made: {_reach(made)}; the headline says why not the best of the search")


def _show_answers(answers: Answers, study: Study, output: Output) -> None:
    output.line(f"the best plan in the cost model: {_reach(answers.now)}")
    if answers.forced:
        output.table(
            "What only the CPU runs, and what the plan would gain at most without it",
            ("stage", "between GPU stages", "nodes", "at most", "why"),
            [(str(f.stage), "yes" if f.between else "no", _names(f.nodes), f"{f.gain:.2f}x", f.reason) for f in answers.forced],
        )
    if not answers.what_if:
        output.line("no GPU is planned for; name one with --target")
        return
    output.table(
        "What a change would buy",
        ("with", "gain", "best plan then"),
        [(w.change, f"{w.gain:.2f}x", _reach(w.reach)) for w in answers.what_if],
    )
    if len(answers.trade_offs) > 1:
        others = "; ".join(_reach(reach) for reach in answers.trade_offs)
        output.line(f"plans that trade latency for throughput: {others}")
    weights = ", ".join(f"{name} {price:.0%}" for name, price in study.prices.items() if price > 1e-6)
    output.line(f"what a second less of each resource would lower the bound by: {weights}")


def _names(nodes: Sequence[str]) -> str:
    return ", ".join(nodes[:3]) + (f" (+{len(nodes) - 3})" if len(nodes) > 3 else "")


def _reach(reach: Reach) -> str:
    return f"{reach.throughput_per_s:.1f} requests/s, {seconds(reach.latency_s)} alone, {reach.stages} stage(s)"
