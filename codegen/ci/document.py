"""What `cutset ci` found, as the plain values that JSON, JUnit, Markdown and the report are made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from cutset.codegen.ci.case import Case
from cutset.codegen.ci.finding import WORDS, Finding, shown
from cutset.codegen.ci.limits import Limits, shown_limit
from cutset.codegen.ci.record import Record
from cutset.codegen.report.material import DIFF_SCHEMA

CI_SCHEMA = "cutset.ci/1"

CLEARLY = 0.02
"""Difference in speed of the machine that is worth a word."""


def model_document(
    record: Record, case: Case | None, findings: Sequence[Finding], limits: Limits, *, measured: int, report: str
) -> dict[str, Any]:
    """Return what was found of one model.

    Args:
        record: What it is.
        case: That beside the baseline's; None where a baseline was taken.
        findings: What came of it.
        limits: What counted as a regression.
        measured: How often it was measured.
        report: Path of its report, from the output folder.
    """
    failed = [finding for finding in findings if finding.verdict == "worse"]
    table = record.repeats.table
    found: dict[str, Any] = {
        "schema": DIFF_SCHEMA,
        "name": record.name,
        "model": {"file": table.model.file, "sha256": table.model.sha256, "nodes": table.model.nodes},
        "verdict": "taken" if case is None else "regression" if failed else "ok",
        "headline": _headline(case, failed),
        "machine": record.machine,
        "measured": measured,
        "findings": [_finding(finding, limits) for finding in findings],
        "report": report,
    }
    return found if case is None else found | _difference(case)


def document(models: Sequence[dict[str, Any]], baseline: str) -> dict[str, Any]:
    """Return what was found of all models."""
    verdicts = {model["verdict"] for model in models}
    verdict = next((name for name in ("regression", "ok", "taken") if name in verdicts), "ok")
    return {"schema": CI_SCHEMA, "verdict": verdict, "baseline": baseline, "models": list(models)}


def _headline(case: Case | None, failed: Sequence[Finding]) -> str:
    if case is None:
        return "taken as the baseline"
    if not failed:
        return "no regression"
    return f"{len(failed)} regression{'s' if len(failed) > 1 else ''}: " + ", ".join(finding.title for finding in failed)


def _finding(finding: Finding, limits: Limits) -> dict[str, Any]:
    return {
        "check": finding.check,
        "title": finding.title,
        "verdict": finding.verdict,
        "word": WORDS[finding.verdict],
        "then": finding.then,
        "now": finding.now,
        "shown": [shown(finding.then, finding.unit), shown(finding.now, finding.unit)],
        "unit": finding.unit,
        "change": finding.change,
        "limit": shown_limit(finding.check, limits[finding.check]),
        "note": finding.note,
        "causes": list(finding.causes),
        "sentence": finding.sentence,
    }


def _difference(case: Case) -> dict[str, Any]:
    """Return then and now of everything that can be listed."""
    compared = case.comparison
    return {
        "same_machine": case.same_machine,
        "baseline_machine": case.then.machine,
        "speed": {"factor": case.speed.factor, "known": case.speed.known, "share": case.speed.share},
        "keeping": case.keeping if math.isfinite(case.keeping) else None,
        "notes": list(_notes(case)),
        "changes": [{"what": change.what, "then": change.a, "now": change.b} for change in compared.changes],
        "groups": [
            {
                "what": group.what, "nodes": group.nodes, "device": group.device, "then_s": group.a_s, "now_s": group.b_s,
                "ratio": group.ratio, "verdict": group.verdict, "source": group.sources[1], "same_work": group.same_work,
            }
            for group in compared.groups
        ],
        "gone": [_alone(group) for group in compared.only_a],
        "new": [_alone(group) for group in compared.only_b],
        "moves": [
            {"node": move.node, "then": move.then, "now": move.now, "reason": move.reason} for move in case.moves
        ],
        "stages": {"then": list(case.then.plan.devices), "now": list(case.now.plan.devices)},
    }  # fmt: skip


def _alone(group: Any) -> dict[str, Any]:
    return {"what": group.what, "nodes": group.nodes, "device": group.device, "latency_s": group.latency_s}


def _notes(case: Case) -> Iterator[str]:
    """Yield what a reader has to know before the numbers: other machines, other versions, another speed."""
    if not case.same_machine:
        then, now = case.then.machine, case.now.machine
        yield (
            f"the baseline has no entry of this machine ({_machine(now)}); compared with that of another ({_machine(then)}) "
            "in what does not depend on it"
        )
    versions = [
        f"{change.what.removeprefix('packages.')} {_version(change.a)} -> {_version(change.b)}"
        for change in case.comparison.changes
        if change.what.startswith("packages.") or change.what in {"python", "os", "gpus"}
    ]
    if versions:
        yield "other versions than at the baseline: " + ", ".join(versions)
    if case.same_machine and case.speed.known and abs(case.speed.factor - 1) > CLEARLY:
        word = "slower" if case.speed.factor > 1 else "faster"
        factor = max(case.speed.factor, 1 / case.speed.factor)
        yield (
            f"the machine was {factor:.2f} times {word} than at the baseline, by what the same work took; "
            "times are given at the speed of the baseline"
        )
    elif case.same_machine and not case.speed.known:
        yield "there is no work that the same libraries did in both, so the machine's own speed is part of the noise"


def _machine(machine: dict[str, Any]) -> str:
    gpus = ", ".join(map(str, machine["gpus"]))
    return f"{machine['cpu']}, {machine['cores']} cores" + (f", {gpus}" if gpus else "")


def _version(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(f"{gpu.get('name')} driver {gpu.get('driver')}" for gpu in value) or "none"
    return "none" if value is None else str(value)
