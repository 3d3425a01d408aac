"""What got worse between two records of a model, by more than its limit and by more than noise.

Pure: nothing is measured here, and equal arguments give equal findings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cutset.codegen.ci.answers import error_finding
from cutset.codegen.ci.case import Case
from cutset.codegen.ci.finding import Finding, skipped, weigh
from cutset.codegen.ci.limits import CHECKS, OFF, REFUSED
from cutset.codegen.report.text import counted, seconds
from cutset.profilers.compare import NOISE, Comparison, Difference

NAMED = 5
"""Groups and nodes that a finding names."""

WORTH_NAMING = 0.005
"""Least share of the model's time that a group has to add to be named."""

RIVAL = 0.9
"""Busy share at which a resource is as good as the bottleneck: a few per cent of noise make it that."""


def judge(case: Case) -> list[Finding]:
    """Return what each check found, those that are off or have nothing to compare left out."""
    found = []
    for name, check in CHECKS.items():
        if case.limits[name] == OFF:
            continue
        if not check.portable and not case.same_machine:
            finding: Finding | None = skipped(name, "the baseline's entry is of another machine")
        else:
            finding = _JUDGES[name](case, case.limits[name])
        if finding is not None:
            found.append(finding)
    return found


def suspicious(findings: list[Finding]) -> bool:
    """Return whether something got worse that another measurement might show to be noise."""
    return any(finding.verdict == "worse" and CHECKS[finding.check].measured for finding in findings)


def _cost(case: Case, limit: float) -> Finding | None:
    return _total(case, "cost", "cpu", limit)


def _gpu_cost(case: Case, limit: float) -> Finding | None:
    return _total(case, "gpu-cost", "gpu", limit)


def _total(case: Case, check: str, device: str, limit: float) -> Finding | None:
    total = next((total for total in case.comparison.totals if total.device == device), None)
    if total is None or total.ratio is None:
        return None
    change = total.ratio - 1
    verdict = weigh(change, limit, significant=total.verdict != "same")
    causes = _dearer(case.comparison, device, total.a_s) if change > limit else ()
    return Finding(
        check=check,
        verdict=verdict,
        then=total.a_s,
        now=total.b_s,
        unit="s",
        change=change,
        note=_sources(total),
        causes=causes,
    )


def _sources(total: Difference) -> str:
    return "" if total.sources[1] == "measured" else total.sources[1]


def _dearer(comparison: Comparison, device: str, total_s: float) -> tuple[str, ...]:
    """Return what added most to a total, in words."""
    added = [
        (group.b_s - group.a_s, f"`{group.what}` {seconds(group.a_s)} -> {seconds(group.b_s)}" + _other_work(group))
        for group in comparison.groups
        if group.device == device and (group.verdict == "slower" or not group.same_work)
    ]
    added += [(g.latency_s, f"`{g.what}` is new: {seconds(g.latency_s)}") for g in comparison.only_b if g.device == device]
    worth = sorted((entry for entry in added if entry[0] > WORTH_NAMING * total_s), key=lambda entry: -entry[0])
    gone = sum(group.latency_s for group in comparison.only_a if group.device == device)
    named = [words for _, words in worth[:NAMED]]
    if len(worth) > NAMED:
        named.append(f"and {len(worth) - NAMED} more")
    if gone > WORTH_NAMING * total_s and named:
        named.append(f"{seconds(gone)} are gone instead")
    return tuple(named)


def _other_work(group: Difference) -> str:
    return "" if group.same_work else " (it computes something else now)"


def _group(case: Case, limit: float) -> Finding | None:
    total_s = case.total_s
    groups = [group for group in case.comparison.groups if group.device == "cpu"]
    dearer = [group for group in groups if group.verdict == "slower" and group.b_s - group.a_s > limit * total_s]
    if not total_s:
        return None
    worst = max((group.b_s - group.a_s for group in dearer), default=0.0) / total_s
    causes = tuple(f"`{group.what}` {seconds(group.a_s)} -> {seconds(group.b_s)}" for group in dearer[:NAMED])
    note = f"{len(dearer)} of {len(groups)}"
    return Finding(
        check="group", verdict="worse" if dearer else "same", change=worst if dearer else None, note=note, causes=causes
    )


def _throughput(case: Case, limit: float) -> Finding | None:
    return _predicted(case, "throughput", limit)


def _predicted(case: Case, check: str, limit: float) -> Finding | None:
    """Compare what two plans should reach: seconds between requests, or seconds of a request."""
    then, now = case.then.plan, case.now.plan
    ends = (then.latency_s, now.latency_s) if check == "latency" else (now.throughput_per_s, then.throughput_per_s)
    if not ends[0]:
        return None
    change = ends[1] / ends[0] - 1
    values = ends if check == "latency" else (ends[1], ends[0])
    return Finding(
        check=check,
        verdict=weigh(change, limit, significant=abs(change) > case.noise),
        then=values[0],
        now=values[1],
        unit="s" if check == "latency" else "/s",
        change=change,
    )


def _latency(case: Case, limit: float) -> Finding | None:
    return _predicted(case, "latency", limit)


def _gain(case: Case, limit: float) -> Finding | None:
    plans = case.then.plan, case.now.plan
    if not all(plan.simple_per_s for plan in plans):
        plans = plans[0].as_old(), plans[1].as_old()
    then, now = plans[0].gain, plans[1].gain
    if not then or not now:
        return None
    change = then / now - 1
    verdict = weigh(change, limit, significant=abs(change) > NOISE)
    return Finding(check="gain", verdict=verdict, then=then, now=now, unit="times", change=change)


def _measured_gain(case: Case, limit: float) -> Finding | None:
    then, now = case.then.deployment.benched, case.now.deployment.benched
    if now is None:
        return None
    if then is None:
        return skipped("measured-gain", "the baseline was taken without --bench")
    change = then.gain / now.gain - 1
    verdict = weigh(change, limit, significant=abs(change) > then.noise + now.noise)
    return Finding(check="measured-gain", verdict=verdict, then=then.gain, now=now.gain, unit="times", change=change)


def _kernels(case: Case, limit: float) -> Finding | None:
    then, now = (sum(bool(g.canonical) for g in r.repeats.table.groups_on("cpu")) for r in (case.then, case.now))
    if not then:
        return None
    change = now / then - 1
    note = "fewer operators are fused" if change > limit else ""
    verdict = weigh(change, limit, significant=True)
    return Finding(check="kernels", verdict=verdict, then=then, now=now, unit="count", change=change, note=note)


def _placement(case: Case, limit: float) -> Finding | None:
    if not case.moves:
        return Finding(check="placement", verdict="same")
    causes = [move.sentence for move in case.moves[:NAMED]]
    if len(case.moves) > NAMED:
        causes.append(f"and {len(case.moves) - NAMED} more")
    moved = f"{counted(len(case.moves), 'node')} moved"
    excuse = _excuse(case, limit)
    note = f"{moved}; {excuse}" if excuse else moved
    return Finding(check="placement", verdict="noise" if excuse else "worse", note=note, causes=tuple(causes))


def _excuse(case: Case, limit: float) -> str:
    """Return why moved nodes are no regression, or an empty text."""
    if any(move.reason for move in case.moves):
        return ""
    if limit == REFUSED:
        return "nothing was refused, costs decided"
    if not case.same_machine:
        return "costs are those of another machine"
    if case.keeping <= NOISE:
        return f"the baseline's placement would do as well ({case.keeping:.1%} worse)"
    return ""


def _stages(case: Case, limit: float) -> Finding | None:
    then, now = (" -> ".join(record.plan.devices) for record in (case.then, case.now))
    if then == now:
        return Finding(check="stages", verdict="same", then=then, now=now)
    excuse = _excuse(case, limit)
    return Finding(check="stages", verdict="noise" if excuse else "worse", then=then, now=now, note=excuse)


def _bottleneck(case: Case, _limit: float) -> Finding | None:
    then, now = case.then.plan.bottleneck, case.now.plan.bottleneck
    if then == now:
        return Finding(check="bottleneck", verdict="same", then=then, now=now)
    rival = case.now.plan.utilisation.get(then, 0.0) >= RIVAL
    note = f"{then} is as good as full still" if rival else ""
    return Finding(check="bottleneck", verdict="noise" if rival else "worse", then=then, now=now, note=note)


def _error(case: Case, limit: float) -> Finding | None:
    return error_finding(case.then.deployment, case.now.deployment, limit, same_machine=case.same_machine)


def _engine_size(case: Case, limit: float) -> Finding | None:
    then, now = case.then.deployment.engine_bytes, case.now.deployment.engine_bytes
    if not then and not now:
        return None
    if not then or not now:
        return skipped("engine-size", "no engine was built " + ("for the baseline" if now else "here"))
    # Engines of other stages are of other sizes: where nodes moved without a reason of their own, nothing else grew.
    excused = bool(case.moves) and bool(_excuse(case, 0.0))
    return _size("engine-size", sum(then.values()), sum(now.values()), limit, significant=not excused)


def _package_size(case: Case, limit: float) -> Finding | None:
    return _size("package-size", case.then.deployment.package_bytes, case.now.deployment.package_bytes, limit)


def _size(check: str, then: int, now: int, limit: float, *, significant: bool = True) -> Finding | None:
    if not then or not now:
        return None
    change = now / then - 1
    verdict = weigh(change, limit, significant=significant)
    return Finding(check=check, verdict=verdict, then=then, now=now, unit="bytes", change=change)


_JUDGES: Mapping[str, Callable[[Case, float], Finding | None]] = {
    "cost": _cost,
    "group": _group,
    "gpu-cost": _gpu_cost,
    "throughput": _throughput,
    "latency": _latency,
    "gain": _gain,
    "measured-gain": _measured_gain,
    "kernels": _kernels,
    "placement": _placement,
    "stages": _stages,
    "bottleneck": _bottleneck,
    "error": _error,
    "engine-size": _engine_size,
    "package-size": _package_size,
}
