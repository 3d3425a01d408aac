"""The two case studies against the same networks chained by hand: equal answers, and how many photos a second.

usage: python -m benchmarks.case_studies [-o FILE] [--photos N] [--rounds N] [--workers N] [CASE ...]

Cases: face-crops, documents. Each cascade is partitioned for the CPU alone and its package answers the same photographs as
the chain, which calls one session after the other: each with as many threads as the package has workers, spinning or not,
or with one. They take turns; a round is all the photos, and the ratio is to the fastest chain of the round. `overlap` says
what the plan for a T4 (modelled) does at once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import photographs
from benchmarks.hand_written.onnx_chain import Threads
from cutset import serde
from cutset.codegen.runtime import Pipeline
from cutset.profilers.environment import environment
from cutset.sample_models import registry

CASES = {"face-crops": photographs.faces, "documents": photographs.documents}
COUNTED = {"face-crops": "boxes", "documents": "lines"}
ROWS = {"boxes": ("scores", "upright"), "lines": ("line_scores",), "regions": ("region_scores", "region_classes")}
"""Outputs that have a row for each box, by the output that has the boxes."""
PIXELS = 0.05
"""Largest difference of a box, in pixels: networks differ in the last bits by their threads and fusions."""
SHARE = 1e-3
"""Largest difference of a score."""


def main() -> int:
    """Measure, write the JSON and print it."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: _case(name, Path(folder), options) for name in options.cases or CASES}
    document = {"environment": environment(), "cases": found}
    if options.output:
        options.output.write_text(serde.dumps(document), "utf-8")
    print(serde.dumps(found))
    return 0 if all(case["equal"] == case["photos"] for case in found.values()) else 1


def _case(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what one case study reaches."""
    files = CASES[name](options.photos)
    written = registry.write(name, folder / f"{name}.yaml")
    plan = _cutset("partition", written.model, "-o", folder / name, "--target", "cpu", "--cpu-workers", options.workers)
    modelled = _cutset("partition", written.model, "--plan-only", "--target", "t4")
    written_by_hand = importlib.import_module(f"benchmarks.hand_written.{name.replace('-', '_')}_chain").Chain
    chains = {kind: written_by_hand(threads) for kind, threads in _ways(options.workers).items()}
    chain = chains["default"]
    (package,) = (folder / name / "serving").glob("*_serving")
    with Pipeline.load(package) as pipeline:
        answers = list(pipeline.map({"photo": file} for file in files))
        wanted = [chain(file) for file in files]
        differences = [_difference(one, other) for one, other in zip(answers, wanted, strict=True)]
        sides = {
            "pipeline": lambda: sum(1 for _ in pipeline.map({"photo": file} for file in files)),
            **{kind: _walk(one, files) for kind, one in chains.items()},
        }
        rates = _in_turns(sides, len(files), options.rounds)
    counts = [len(answer[COUNTED[name]]) for answer in answers]
    rounds = [{side: found[index]["per_s"] for side, found in rates.items()} for index in range(options.rounds)]
    ratios = [entry["pipeline"] / max(entry[kind] for kind in chains) for entry in rounds]
    return {
        "photos": len(files),
        "equal": sum(not entry for entry in differences),
        "differences": [entry for entry in differences if entry],
        "found": {"none": counts.count(0), "one": counts.count(1), "several": sum(c > 1 for c in counts), "most": max(counts)},
        "decision": plan["decision"],
        "stages": len(plan["stages"]),
        "workers": options.workers,
        "per_s": {side: statistics.median(entry["per_s"] for entry in found) for side, found in rates.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "processor_s": {side: statistics.median(entry["processor_s"] for entry in found) for side, found in rates.items()},
        "overlap": _overlap(modelled),
    }


def _ways(workers: int) -> dict[str, Threads]:
    """Return how a script may use the cores: as onnxruntime does by itself, without spinning, and one thread alone."""
    return {
        "default": Threads(count=workers),
        "no spinning": Threads(count=workers, spinning=False),
        "one thread": Threads(count=1, spinning=False),
    }


def _walk(chain: Callable[[np.ndarray], object], files: Sequence[np.ndarray]) -> Callable[[], int]:
    return lambda: sum(1 for file in files if chain(file))


def _in_turns(sides: Mapping[str, Callable[[], int]], photos: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Return photos a second, and seconds of processor time a photo, of each side in each round."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            begin, used = time.perf_counter(), _processor_s()
            side()
            seconds = time.perf_counter() - begin
            found[name].append({"per_s": photos / seconds, "processor_s": (_processor_s() - used) / photos})
    return found


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _difference(answer: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> str:
    """Return what differs, or nothing.

    Rows are compared from the left of the picture to the right: where two boxes score the same to the last bits, the order
    of the surest first is chance.
    """
    for boxes, names in ROWS.items():
        if boxes not in wanted:
            continue
        if len(answer[boxes]) != len(wanted[boxes]):
            return f"{boxes}: {len(answer[boxes])} for {len(wanted[boxes])}"
        orders = [np.lexsort(np.rint(side[boxes]).T) for side in (answer, wanted)]
        for name in (boxes, *names):
            limit = PIXELS if name == boxes else SHARE
            found, expected = (side[name][order] for side, order in zip((answer, wanted), orders, strict=True))
            if found.size and not np.abs(found - expected).max() <= limit:
                return f"{name}: {np.abs(found - expected).max():.3g}"
    rest = set(wanted) - {name for boxes, names in ROWS.items() for name in (boxes, *names)}
    return next((name for name in sorted(rest) if not np.abs(answer[name] - wanted[name]).max() <= SHARE), "")


def _overlap(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return which branches each stage of a plan works on, and how busy both devices are at once."""
    stages = []
    for stage in plan["stages"]:
        branches = sorted({node.partition("/")[0] for node in stage["nodes"]})
        stages.append({"device": stage["device"], "service_s": stage["service_s"], "branches": branches})
    prediction = plan["prediction"]
    return {
        "target": "NVIDIA T4 (modelled)",
        "stages": stages,
        "throughput_per_s": prediction["throughput_per_s"],
        "latency_s": prediction["latency_s"],
        "utilisation": prediction["utilisation"],
        "inside": prediction["throughput_per_s"] * prediction["latency_s"],
        "gap": prediction["gap"],
    }


def _cutset(*words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "cutset", *map(str, words), "--json", "-q"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], metavar="CASE")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--photos", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
