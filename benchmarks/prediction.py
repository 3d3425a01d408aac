"""How close a calibrated prediction is to the measured pipeline, and how close the pipeline to its slowest resource.

usage: python benchmarks/prediction.py [-o FILE] [--markdown] [--seconds S] [--target NAME] [SAMPLE ...]

Each sample is partitioned with `--calibrate` for one CPU worker and measured with `cutset bench`. Where no GPU works its
stages run on a CPU core of their own; the prediction then has the CPU's costs for them. Only ratios of one run are
compared, but a busy machine makes even those worthless: the load average is in the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutset import serde
from cutset.profilers.environment import environment
from cutset.sample_models import registry

SAMPLES = ("classifier", "orientation-jpeg", "centerface", "encoder")


def main() -> int:
    """Measure, write the JSON, and print a line or a table row for each sample."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(name, Path(folder), options) for name in options.samples or SAMPLES]
    if options.output:
        options.output.write_text(serde.dumps({"environment": environment(), "rows": rows}), "utf-8")
    print(_table(rows) if options.markdown else json.dumps(rows, indent=1))
    return 0


def _row(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what one sample's package is predicted to do and does."""
    written = registry.write(name, folder / f"{name}.onnx")
    package = folder / name
    words = ["--target", options.target, "--cpu-workers", "1", "--calibrate"]
    plan = _cutset("partition", str(written.model), "-o", str(package), *words)
    bench = _cutset("bench", str(package), "--seconds", str(options.seconds))
    return {
        "sample": name,
        "decision": plan["decision"],
        "stages": len(plan["stages"]),
        "calibration": plan["calibration"]["state"],
        "predicted_per_s": bench["prediction"]["here_per_s"],
        "measured_per_s": bench["pipeline"]["throughput_per_s"],
        "error": bench["prediction_error"],
        "efficiency": bench["efficiency"],
        "interval": bench["efficiency_interval"],
        "rounds": bench["rounds"],
        "unsplit_replicas_per_s": bench["baselines"]["unsplit_replicas"]["throughput_per_s"],
        "load_average": bench["environment"]["load_average"],
    }


def _cutset(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "cutset", *words, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| model | plan | predicted /s | measured /s | error | efficiency | 95 % interval | unsplit replicas /s | load |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['sample']} | {row['decision']}, {row['stages']} | {row['predicted_per_s']:.1f} | {row['measured_per_s']:.1f} "
        f"| {row['error']:+.1%} | {row['efficiency']:.1%} | {row['interval'][0]:.0%} to {row['interval'][1]:.0%} "
        f"| {row['unsplit_replicas_per_s']:.1f} | {row['load_average'][0]:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="*", help=f"by default {' '.join(SAMPLES)}")
    parser.add_argument("-o", dest="output", type=Path, help="write JSON with the environment")
    parser.add_argument("--markdown", action="store_true", help="print a table instead of JSON")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each sample's rounds")
    parser.add_argument("--target", default="t4", help="the GPU to plan for")
    return parser


if __name__ == "__main__":
    sys.exit(main())
