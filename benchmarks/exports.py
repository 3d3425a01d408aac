"""Whether models as popular libraries export them load, are split for a T4 (modelled) and answer as onnxruntime does.

usage: python -m benchmarks.exports [-o FILE [--append]] [--markdown] [--only GLOB ...] [--work FOLDER] [--target GPU]
                                    [--timeout SECONDS] [--memory GIB] [--pin GLOB=cpu|gpu ...]

Models of torchvision, ultralytics, transformers, scikit-learn, LightGBM and XGBoost with random weights, written by both
exporters of torch or by the library's own, and what onnxruntime's tools make of some: `benchmarks/exported/` has them. Needs
`pip install torch torchvision onnxscript transformers ultralytics scikit-learn skl2onnx onnxmltools lightgbm xgboost` beside
Cutset; models of what is not installed are left out, saying so. Each step is a process of its own, with limits; exports are
kept in FOLDER between runs. `--pin` forces cuts where the plan would leave a small model whole. The package that `cutset
partition` writes runs on this machine's CPU, and answers three inputs of sizes and content that the plan has not seen; the
reference is onnxruntime on the exported file.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cutset import serde
from cutset.codegen.numerics import ABSOLUTE_SHARE, TOLERANCES
from cutset.profilers.environment import environment, installed_versions

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "torchvision", "onnxscript", "transformers", "ultralytics", "scikit-learn", "skl2onnx", "onnxmltools",
             "lightgbm", "xgboost")  # fmt: skip
COMPLETE = "complete"
LOAD_LIMIT_S = 60.0
PROFILE_SECONDS = "2"
WORDS = 200
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Fail|InvalidArgument|NotImplemented|SymNode)\b(:|$)")
"""The line of a traceback that names the exception."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model as one exporter writes it.

    Args:
        name: Of the model.
        exporter: What wrote the file.
        size: In what the model is smaller than the usual one.
        failed: The step that failed: export, load, partition or compare; empty where none did.
        said: The last words of the failed step, or the verdict of the plan.
        nodes: Nodes that a placement is about.
        load_s: Seconds that Cutset took to load the file.
        exit_code: Of `cutset partition`; minus the signal that ended the command, None where the command did not end in time.
        partition_s: Seconds of the whole command.
        stages: Device and number of nodes of each stage.
        equal: Whether all answers are equal within the tolerance, None where none could be compared.
        max_abs: Largest absolute difference of an answer.
        max_rel: Largest difference over the largest magnitude of its output.
        types: Types of the answers.
        values: Values that were compared.
    """

    name: str
    exporter: str
    size: str
    failed: str = ""
    said: str = ""
    nodes: int | None = None
    load_s: float | None = None
    exit_code: int | None = None
    partition_s: float | None = None
    stages: Sequence[str] = ()
    equal: bool | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    types: Sequence[str] = ()
    values: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a step may take: seconds, and bytes of private memory."""

    seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended: `code` is None where the limit of time ended the process."""

    code: int | None
    stdout: str
    stderr: str
    seconds: float


def run(command: Sequence[str | Path], limits: Limits) -> Ended:
    """Run a command within limits; the command and all its children end with the limit of time."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    try:
        stdout, stderr = process.communicate(timeout=limits.seconds)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        code = None
    return Ended(code=code, stdout=stdout, stderr=stderr, seconds=time.perf_counter() - start)


def step(words: Sequence[str | Path], limits: Limits) -> tuple[dict[str, Any] | None, str]:
    """Return what a step of `benchmarks.exported.child` found, or None and why the step found nothing."""
    ended = run([sys.executable, "-m", "benchmarks.exported.child", *words], limits)
    if ended.code == 0:
        return json.loads(ended.stdout.splitlines()[-1]), ""
    return None, reason_of(ended, limits)


def reason_of(ended: Ended, limits: Limits) -> str:
    """Return in few words why a process failed: the error of a command, or the last line of a traceback."""
    if ended.code is None:
        return f"not done after {limits.seconds:.0f} s"
    lines = [COLOUR.sub("", line).strip() for line in ended.stderr.splitlines() if line.strip()]
    told = _error_of(ended.stdout)
    about = [told[key] for key in ("what", "where", "cause") if told.get(key)]
    raised = [line for line in lines if RAISED.match(line)]
    words = " ".join(about) if about else next(reversed(raised or lines), "")
    return (words if ended.code > 0 else f"signal {-ended.code}: {words}")[:WORDS]


def _error_of(stdout: str) -> dict[str, str]:
    """Return the error that a command wrote as JSON, empty without one."""
    try:
        return dict(json.loads(stdout)["error"])
    except (ValueError, KeyError, TypeError):
        return {}


def row_of(subject: dict[str, str], options: argparse.Namespace) -> Row:
    """Export, load, partition and compare one model; the first step that fails ends the row."""
    limits = Limits(seconds=options.timeout, memory_bytes=int(options.memory * 2**30))
    folder = options.work / f"{subject['name']}-{subject['exporter']}"
    row = Row(name=subject["name"], exporter=subject["exporter"], size=subject["size"])
    if not (folder / COMPLETE).is_file():
        found, why = step(["export", subject["family"], row.name, row.exporter, folder], limits)
        if found is None:
            return replace(row, failed="export", said=why)
        (folder / COMPLETE).touch()
    model = folder / "model.onnx"
    found, why = step(["load", model], replace(limits, seconds=min(LOAD_LIMIT_S, limits.seconds)))
    if found is None:
        return replace(row, failed="load", said=why)
    return _partitioned(replace(row, load_s=found["load_s"], nodes=found["nodes"]), folder, limits, options)


def _partitioned(row: Row, folder: Path, limits: Limits, options: argparse.Namespace) -> Row:
    command = [sys.executable, "-m", "cutset", "partition", folder / "model.onnx", "-o", folder / "out", "--force", "--json"]
    command += ["--target", options.target, "--cache", options.work / "cache", "--profile-seconds", PROFILE_SECONDS]
    ended = run([*command, *(word for pin in options.pin for word in ("--pin", pin))], limits)
    row = replace(row, exit_code=ended.code, partition_s=ended.seconds)
    if ended.code != 0:
        return replace(row, failed="partition", said=reason_of(ended, limits))
    plan = json.loads(ended.stdout)
    stages = tuple(f"{stage['device']} {len(stage['nodes'])}" for stage in plan["stages"])
    row = replace(row, said=plan["verdict"][:WORDS], stages=stages)
    (package,) = (folder / "out" / "serving").glob("*_serving")
    found, why = step(["compare", folder, package], limits)
    if found is None:
        return replace(row, failed="compare", said=why)
    failed = "compare" if found["unequal"] else ""
    return replace(
        row, failed=failed, said=found["unequal"][0][:WORDS] if failed else row.said, equal=not failed,
        max_abs=found["max_abs"], max_rel=found["max_rel"], types=found["types"], values=found["values"],
    )  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of the documentation."""
    lines = [
        "| model | exporter | nodes | load, s | exit | partition, s | stages | answers | difference / magnitude | said |",
        "|---|---|--:|--:|--:|--:|---|---|--:|---|",
    ]
    for row in rows:
        load_s = "" if row.load_s is None else f"{row.load_s:.2f}"
        partition_s = "" if row.partition_s is None else f"{row.partition_s:.0f}"
        code = row.exit_code if row.partition_s is not None and row.exit_code is not None else ""
        answers = {None: "", True: "equal", False: "**differ**"}[row.equal]
        difference = "" if row.max_rel is None else f"{row.max_rel:.2g}"
        said = f"**{row.failed}**: {row.said}" if row.failed else row.said
        lines.append(
            f"| {row.name} | {row.exporter} | {row.nodes or ''} | {load_s} | {code} | {partition_s} | "
            f"{', '.join(row.stages)} | {answers} | {difference} | {cell(said)} |"
        )
    return "\n".join([*lines, "", summary(rows)])


def cell(text: str) -> str:
    """Return a text that fits into a table's cell."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def summary(rows: Sequence[Row]) -> str:
    """Return in one sentence how many rows went through each step."""
    exported = [row for row in rows if row.failed != "export"]
    loaded = [row for row in exported if row.failed != "load"]
    slowest = max((row.load_s or 0.0 for row in loaded), default=0.0)
    done, equal = sum(row.exit_code == 0 for row in rows), sum(row.equal is True for row in rows)
    return (
        f"{len(exported)} of {len(rows)} exports could be made; {len(loaded)} load, the slowest in {slowest:.1f} s; "
        f"{done} end with exit code 0; {equal} give equal answers."
    )


def document(rows: Sequence[Row], options: argparse.Namespace) -> dict[str, Any]:
    """Return what is written: how it was run, where, and the rows."""
    return {
        "command": ["python", "-m", "benchmarks.exports", *sys.argv[1:]],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "target": options.target,
        "pins": options.pin,
        "environment": environment(),
        "libraries": installed_versions(LIBRARIES),
        "tolerance": {"relative": dict(TOLERANCES), "absolute": f"{ABSOLUTE_SHARE} of relative times the output's magnitude"},
        "limits": {"seconds": options.timeout, "load_s": LOAD_LIMIT_S, "memory_gib": options.memory},
        "rows": rows,
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--append", action="store_true", help="keep the rows of other models that FILE has")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--only", nargs="*", metavar="GLOB", help="models by NAME or NAME-EXPORTER")
    parser.add_argument("--work", type=Path, default=Path("build/exports"))
    parser.add_argument("--target", default="t4")
    parser.add_argument("--pin", action="append", default=[], metavar="GLOB=cpu|gpu")
    parser.add_argument("--timeout", type=float, default=900.0)
    parser.add_argument("--memory", type=float, default=12.0)
    options = parser.parse_args(arguments)
    options.work = options.work.resolve()
    return options


def chosen(subjects: Sequence[dict[str, str]], globs: Sequence[str] | None) -> list[dict[str, str]]:
    """Return the subjects that a glob names; all without globs."""
    if globs is None:
        return list(subjects)
    names = [(subject, (subject["name"], f"{subject['name']}-{subject['exporter']}")) for subject in subjects]
    return [subject for subject, of in names if any(fnmatch.fnmatchcase(name, glob) for name in of for glob in globs)]


def main() -> int:
    """Do every model, writing after each; the exit code says whether all went well."""
    options = parse()
    listed, why = step(["list"], Limits(seconds=options.timeout, memory_bytes=int(options.memory * 2**30)))
    if listed is None:
        raise SystemExit(f"the models cannot be listed: {why}")
    for family, what in listed["missing"].items():
        print(f"left out: {family}: {what}", file=sys.stderr)
    rows: list[Row] = []
    if options.append and options.output.is_file():
        kept = json.loads(options.output.read_text("utf-8"))["rows"]
        rows = list(serde.convert(kept, tuple[Row, ...], where=str(options.output)))
    order = {(subject["name"], subject["exporter"]): place for place, subject in enumerate(listed["subjects"])}
    for subject in chosen(listed["subjects"], options.only):
        found = row_of(subject, options)
        rows = [*(row for row in rows if (row.name, row.exporter) != (found.name, found.exporter)), found]
        rows.sort(key=lambda row: order.get((row.name, row.exporter), len(order)))
        print(found, file=sys.stderr, flush=True)
        if options.output:
            options.output.write_text(serde.dumps(document(rows, options)), "utf-8")
    if options.markdown:
        print(markdown(rows))
    print(summary(rows), file=sys.stderr)
    return 0 if all(row.equal for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
