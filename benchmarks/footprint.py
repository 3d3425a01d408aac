"""Peak memory and start-up time of the command line, against the bounds that the project keeps.

usage: python benchmarks/footprint.py [-o FILE] [SAMPLE ...]

Each sample is partitioned in a process of its own with an empty cache; its peak resident memory is what the kernel
counted for the largest process. `cutset --help` is started several times, beside a bare interpreter in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cutset import serde
from cutset.profilers.environment import environment

SAMPLES = ("classifier", "piper_en_us_joe", "lac_encoder", "tagger")
STARTS = 7
FACTOR, FIXED_BYTES = 3, 500 * 10**6


def peak_of(words: list[str]) -> tuple[int, float]:
    """Return the peak resident bytes of a command, and its seconds."""
    start = time.perf_counter()
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{words} ended with {child.returncode}")
    return usage.ru_maxrss * 1024, time.perf_counter() - start


def partition(sample: str, folder: Path) -> dict[str, Any]:
    """Return the memory that partitioning one sample takes."""
    model = folder / f"{sample}.onnx"
    subprocess.run([sys.executable, "-m", "cutset", "samples", sample, "-q", "-o", str(model)], check=True)
    words = [sys.executable, "-m", "cutset", "partition", str(model), "-q", "--target", "t4", "--cache", "none"]
    peak, seconds = peak_of([*words, "-o", str(folder / sample)])
    size = model.stat().st_size
    bound = FACTOR * size + FIXED_BYTES
    return {
        "sample": sample,
        "model_bytes": size,
        "peak_bytes": peak,
        "bound_bytes": bound,
        "within": peak <= bound,
        "seconds": seconds,
    }


def starts(words: list[str]) -> float:
    """Return the median seconds of starting a command."""
    return statistics.median(peak_of(words)[1] for _ in range(STARTS))


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", nargs="*", default=SAMPLES)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "environment": serde.to_builtins(environment()),
            "help_s": starts([sys.executable, "-m", "cutset", "--help"]),
            "bare_interpreter_s": starts([sys.executable, "-c", "pass"]),
            "partition": [partition(sample, Path(folder)) for sample in arguments.samples],
        }
    text = json.dumps(result, indent=1) + "\n"
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
