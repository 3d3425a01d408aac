"""The tables of docs/gpu.md from the document of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

Entry = Mapping[str, Any]


def markdown(document: Entry) -> str:
    """Return every table that the document has something for, what failed among it."""
    blocks = []
    if document["stand_in"]:
        blocks.append(f"**A rehearsal: the {document['stand_in'].upper()} stands in for the GPU. None of this is evidence.**")
    blocks += [_machine(run) for run in document["runs"][-1:]]
    for section, entries in document["sections"].items():
        good = {name: entry for name, entry in entries.items() if "failure" not in entry}
        blocks.append(f"## {section}")
        if good:
            blocks.append(_TABLES[section](good))
        blocks += [f"- `{name}`: not measured: {e['failure']}" for name, e in entries.items() if "failure" in e]
    return "\n\n".join(blocks)


def _machine(run: Entry) -> str:
    gpus = ", ".join(f"{gpu['name']} (driver {gpu['driver']})" for gpu in run["gpus"]) or "no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
    return f"{gpus}; {run['usable_cores']} cores of {run['cpu']}; {versions}; {run['at']}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def _ceilings(entries: Entry) -> str:
    (found,) = entries.values()
    rows = [
        *((f"{kind} products, Tflop/s", f"{found[f'{kind}_flops'] / 1e12:.1f}") for kind in ("fp32", "tf32", "fp16")),
        ("memory, GB/s", f"{found['memory_bytes_per_s'] / 1e9:.0f}"),
        ("a kernel in a chain, us", f"{found['launch_s'] * 1e6:.2f}"),
        ("the smallest run, us", f"{found['smallest_run_s'] * 1e6:.1f}"),
    ]
    for copy in found["copies"]["measurements"]:
        model = copy["model"]
        kind = f"{model['direction']}, {'pinned' if model['pinned'] else 'pageable'}"
        rows.append((f"{kind}: GB/s and us a copy", f"{model['bytes_per_s'] / 1e9:.1f}, {model['fixed_s'] * 1e6:.1f}"))
    return _table(("ceiling", "measured"), rows)


def _pipeline(entries: Entry) -> str:
    rows, details = [], []
    for name, found in entries.items():
        rate = {row["name"]: row for row in found["rows"]}
        pipeline, plan, bench = rate["pipeline"], found["plan"], found["bench"]
        gain = ", ".join(f"{kind} {factor:.2f}" for kind, factor in found["gain"].items())
        rows.append(
            (
                name, f"{plan['decision']}, {len(plan['stages'])} stages, {plan['workers']} workers, batch {plan['batch']}",
                f"{pipeline['per_s']:.1f}", _ratio(found["over_one_at_a_time"]),
                f"{_ratio(found['over_best_unsplit'])} ({rate[found['best_unsplit']]['title']})", gain, _share(pipeline["gpu"]),
                f"{pipeline['cpu']:.1f}", plan["bottleneck"], plan["cores_to_feed_the_gpu"], _share(bench["prediction_error"]),
                _share(bench["efficiency"]),
            )
        )  # fmt: skip
        lines = [_reached(row["title"], row) for row in found["rows"]]
        lines += [_reached(f"pipeline, {v['workers']} workers, batch {v['max_batch']}", v) for v in found["variants"]]
        details.append(f"`{name}`:\n\n" + _table(("what ran", "callers", "/s", "p50", "p99", "GPU busy", "CPU cores"), lines))
        busy = pipeline.get("threads")
        if busy:
            parts = (
                f"{cores:.1f} cores in {kind.upper()} workers ({waited:.1f} waited for)"
                for kind, (cores, waited) in busy.items()
            )
            details.append(f"Of the pipeline's time on cores: {', '.join(parts)}.")
        details += [
            f"- `{node}` fails in the unsplit model ({why}): it and all before it run in a session on the CPU"
            for node, why in found.get("unsplit_refused", {}).items()
        ]
    heads = (
        "model", "plan", "pipeline /s", "over one at a time", "over the best unsplit", "gain apart", "GPU busy", "CPU cores",
        "bottleneck, planned", "cores to feed the GPU", "prediction error", "efficiency",
    )  # fmt: skip
    return "\n\n".join([_table(heads, rows), *details])


def _reached(title: str, row: Entry) -> tuple[object, ...]:
    times = (_ms(row["p50_s"]), _ms(row["p99_s"]))
    return (title, row["concurrency"], f"{row['per_s']:.1f}", *times, _share(row["gpu"]), f"{row['cpu']:.1f}")


def _profile(entries: Entry) -> str:
    rows = []
    for name, found in entries.items():
        for row in found["rows"]:
            if "failure" in row:
                rows.append((name, row["precision"], row["batch"], row["failure"][:120], "", "", "", ""))
                continue
            size = "" if row["device_bytes"] is None else f"{row['device_bytes'] / 2**20:.0f}"
            values = (f"{row['latency_s'] * 1e3:.3f}", f"{row['per_s']:.0f}", row["groups"], row["refused"])
            rows.append((name, row["precision"], row["batch"], *values, size))
    return _table(("model", "precision", "batch", "ms", "samples/s", "groups", "refused", "MiB on the device"), rows)


def _fit(entries: Entry) -> str:
    (found,) = entries.values()
    said = f"{found['within_25_percent']} of {found['of']} within 25 %; {found['recording']['file']} has "
    said += f"{found['recording']['groups']} groups in {found['recording']['size_bytes'] / 1e6:.2f} MB."
    return f"{fit_table(found['rows'])}\n\n{said}"


def fit_table(found: Sequence[Entry]) -> str:
    """Return the table of profiles that were left out one after the other."""
    rows = [
        (row["profile"], f"{row['measured_s'] * 1e3:.3f}", row["groups"], f"{row['recorded_share']:.0%}",
         _ratio(row["calibrated"]), _ratio(row["predicted"]), _ratio(row["traced"]))
        for row in found
    ]  # fmt: skip
    heads = ("left out", "measured ms", "groups", "found in others", "calibrated / measured", "predicted / measured")
    return _table((*heads, "the same, of traces"), rows)


def _numerics(entries: Entry) -> str:
    rows = []
    for name, found in entries.items():
        for row in found["rows"]:
            if "failure" in row:
                rows.append((name, row["precision"], row["failure"][:120], "", ""))
                continue
            worst = max(row["outputs"], key=lambda output: _or_infinite(output["max_rel"]))
            top1 = next((output["top1"] for output in row["outputs"] if output["top1"] is not None), None)
            rows.append((name, row["precision"], _error(worst["max_rel"]), _error(worst["mean_abs"]), _share(top1)))
    return _table(("model", "precision", "largest error / magnitude", "mean error", "same top 1"), rows)


def _batches(entries: Entry) -> str:
    rows = []
    for name, found in entries.items():
        for row in found["rows"]:
            size = row["rows"] if isinstance(row["rows"], int) else fmean(row["rows"])
            shown = row["rows"] if isinstance(row["rows"], int) else " and ".join(map(str, row["rows"]))
            first = _ms(row["first_s"]) if "first_s" in row else ""
            rows.append((name, row["way"], shown, _ms(row["seconds"]), f"{size / row['seconds']:.0f}", first))
        rows += [
            (name, f"{callers} threads, a row each", 1, "", f"{per_s:.0f}", "")
            for callers, per_s in found["threads_per_s"].items()
        ]
    return _table(("model", "session", "rows", "a run", "rows/s", "first run of that size"), rows)


def _engines(entries: Entry) -> str:
    rows = []
    for found in entries.values():
        for name, entry in found["backends"].items():
            if "failure" in entry:
                rows.append((name, entry["available"]["detail"], entry["failure"][:200], "", "", ""))
                continue
            worst = max((error["max_rel"] for error in entry["errors"]), key=_or_infinite)
            values = (f"{entry['load_s']:.1f}", _error(worst), f"{entry['per_s']:.0f}")
            rows.append((name, entry["available"]["detail"], entry["substitution"] or "runs", *values))
    return _table(("backend", "here", "outcome", "load or build s", "error / magnitude", "samples/s"), rows)


def _trace(entries: Entry) -> str:
    rows = []
    for name, found in entries.items():
        stages, device = found["stages"], found["device"]
        rows.append((name, f"{stages['cpu_s']:.2f}", f"{stages['gpu_s']:.2f}", f"{stages['both_s']:.2f}", _device(device)))
    return _table(("model", "CPU stages s", "GPU stages s", "both at once s", "on the device"), rows)


def _device(found: Entry) -> str:
    if "reason" in found:
        return str(found["reason"])
    moved = found["h2d_s"] + found["d2h_s"]
    beside = found["copies_beside_kernels_s"] / moved if moved else 0.0
    shares = f"copies {moved:.3f} s, {beside:.0%} of them beside kernels, {found['streams']} streams"
    return f"kernels {found['kernel_s']:.3f} s, {shares}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1e3:.2f} ms"


def _error(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2g}"


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


_TABLES: Mapping[str, Callable[[Entry], str]] = {
    "ceilings": _ceilings,
    "pipeline": _pipeline,
    "pipeline-engines": _pipeline,
    "profile": _profile,
    "fit": _fit,
    "batches": _batches,
    "numerics": _numerics,
    "engines": _engines,
    "trace": _trace,
}
