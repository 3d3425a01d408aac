"""Build the GPU stages of a plan as engines, in child processes, and find the node at fault where one does not build."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from cutset.codegen.engines.cleanup import clean
from cutset.codegen.runtime.backends.engine_build import BuildJob, BuildReport, build
from cutset.codegen.runtime.engine_config import EngineInput
from cutset.errors import UnavailableError
from cutset.graph.domains import refusal_of
from cutset.graph.model import ModelGraph
from cutset.profilers.capability import Oracle
from cutset.profilers.child import Failure, Limits, map_in_child
from cutset.profilers.segments import Segment, segment_of, write_segment

BUILD_LIMITS = Limits(time_s=1800.0)
"""Of one engine; a large network takes minutes on a slow machine. The build limits its own memory."""

_REFUSALS = ("BackendError: the parser refuses", "BackendError: the builder refuses")
_NAMED = re.compile(r"\bn(\d+)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A GPU stage to build.

    Args:
        nodes: Its nodes, in graph order.
        model: Its ONNX file.
        engine: Where the engine goes.
        inputs: What it must take.
    """

    nodes: tuple[str, ...]
    model: Path
    engine: Path
    inputs: tuple[EngineInput, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """The node that keeps a part from building, and what the library said."""

    node: str
    reason: str


def build_parts(
    parts: Sequence[Part],
    oracle: Oracle,
    *,
    tf32: bool = False,
    timing_cache: Path | None = None,
    limits: Limits = BUILD_LIMITS,
) -> list[BuildReport | Failure]:
    """Return for each part what its engine took to build, or why it did not.

    Args:
        parts: What to build, one after the other in one child process.
        oracle: The library.
        tf32: Whether float32 products may be computed in tf32.
        timing_cache: Where full TensorRT keeps what it measured of kernels.
        limits: Time of each part.

    Raises:
        UnavailableError: If the library could not be asked at all: that is no reason against any node.
    """
    jobs = [
        BuildJob(
            model=str(part.model), engine=str(part.engine), backend=oracle.backend, inputs=part.inputs,
            compute_capability=oracle.compute_capability, tf32=tf32,
            timing_cache=None if timing_cache is None else str(timing_cache),
        )
        for part in parts
    ]  # fmt: skip
    custom = {part.model: refusal_of(onnx.load(part.model, load_external_data=False)) for part in parts}
    asked = [job for job, part in zip(jobs, parts, strict=True) if not custom[part.model]]
    answers = iter(map_in_child(build, asked, limits=limits))
    found = [
        Failure(kind="raised", detail=f"{_REFUSALS[0]} the part: {why}") if (why := custom[part.model]) else next(answers)
        for part in parts
    ]
    for one in found:
        if isinstance(one, Failure) and one.kind == "raised" and not one.detail.startswith(_REFUSALS):
            hint = "see `cutset doctor`, or use --gpu-backend onnxruntime-cuda"
            raise UnavailableError(f"{oracle.title} cannot build here", cause=one.detail, hint=hint)
    return found


def find_culprit(
    graph: ModelGraph, part: Part, refusal: Failure, oracle: Oracle, progress: Callable[[str], None] = lambda _text: None
) -> Culprit:
    """Return the node that breaks the part: the part's nodes before it build, and together with it they do not.

    Groups can fail although each of their nodes builds, so it is searched for among the beginnings of the part. Whatever
    the library does, there is one: nothing builds, the whole does not, and so does some beginning first.

    Args:
        graph: The whole model.
        part: What did not build.
        refusal: Why not.
        oracle: The library.
        progress: Told what is being tried.
    """
    with tempfile.TemporaryDirectory(prefix="cutset-culprit-") as folder:
        beginnings = _Beginnings(graph, part, oracle, Path(folder), refusal)
        good, bad = 0, len(part.nodes)
        suggested = beginnings.around(refusal)
        while bad - good > 1:
            middle = next((count for count in suggested if good < count < bad), (good + bad) // 2)
            progress(f"searching {bad - good} nodes for the one that does not build")
            refused = beginnings.refusal_of(middle)
            good, bad = (good, middle) if refused else (middle, bad)
        return Culprit(node=part.nodes[bad - 1], reason=beginnings.refusals[bad])


def build_segments(
    graph: ModelGraph,
    segments: Sequence[Segment],
    ranges: Mapping[str, EngineInput],
    oracle: Oracle,
    folder: Path,
    limits: Limits = BUILD_LIMITS,
) -> list[Failure | None]:
    """Return for each segment why it does not build as an engine, None where it does; the engines are thrown away.

    Args:
        graph: The whole model.
        segments: From `segment_of`.
        ranges: What the engines must take, by the name of the value.
        oracle: The library.
        folder: Folder for files, which are removed.
        limits: Time of each segment.
    """
    parts = []
    for index, segment in enumerate(segments):
        model = folder / f"{index}.onnx"
        inputs = tuple(ranges[name] for name in segment.inputs)
        write_segment(graph, segment, model)
        clean(model, inputs)
        parts.append(Part(nodes=segment.nodes, model=model, engine=model.with_suffix(".engine"), inputs=inputs))
    found = build_parts(parts, oracle, limits=limits)
    for file in folder.iterdir():
        file.unlink()
    return [replace(one, detail=_original(graph, one.detail)) if isinstance(one, Failure) else None for one in found]


def _original(graph: ModelGraph, words: str) -> str:
    """Return what the library said with the names that the model gives its nodes."""
    nodes = graph.nodes
    return _NAMED.sub(lambda match: nodes[int(match[1])].name if int(match[1]) < len(nodes) else match[0], words)


class _Beginnings:
    """The first nodes of a part, as parts of their own that are tried once each."""

    def __init__(self, graph: ModelGraph, part: Part, oracle: Oracle, folder: Path, whole: Failure) -> None:
        self._graph, self._part, self._oracle, self._folder = graph, part, oracle, folder
        self._ranges: Mapping[str, EngineInput] = {given.name: given for given in part.inputs}
        self.refusals = {len(part.nodes): words_of(whole)}

    def refusal_of(self, count: int) -> str | None:
        """Return why the first `count` nodes do not build, None when they do."""
        segment = segment_of(self._graph, self._part.nodes[:count])
        (found,) = build_segments(self._graph, [segment], self._ranges, self._oracle, self._folder)
        if found is None:
            return None
        self.refusals[count] = words_of(found)
        return self.refusals[count]

    def around(self, refusal: Failure) -> list[int]:
        """Return the beginnings that end with, and right before, the node that the library names; none if it names none."""
        place = {name: index for index, name in enumerate(self._part.nodes)}
        longest_first = sorted(place, key=len, reverse=True)
        found = next((name for name in longest_first if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", refusal.detail)), None)
        return [] if found is None else [place[found], place[found] + 1]


def words_of(failure: Failure) -> str:
    """Return the reason of a build that failed."""
    words = failure.detail.removeprefix("BackendError: ")
    return words if failure.kind in {"raised", "memory"} else f"building it, the library {words}"
