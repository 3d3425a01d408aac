"""Refuse together the nodes that are alike, so that there are as many searches for a culprit as there are refused patterns.

What breaks a build is a pattern: a node together with some that it depends on. The pattern around a culprit is built as a
part of its own, and every node with the same operators around it is judged by such a build: one for each kind of pattern,
kept in the cost cache. A node is refused only if the library refuses its pattern in the same words, and takes it without
the node.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cutset.codegen.engines.build import Culprit, build_segments, words_of
from cutset.codegen.runtime.engine_config import EngineInput
from cutset.graph.model import ModelGraph
from cutset.profilers.cache import CostCache
from cutset.profilers.capability import PROBE_LIMITS, Oracle, kind_of, small_vectors
from cutset.profilers.child import Failure
from cutset.profilers.probed import Probed
from cutset.profilers.segments import segment_of
from cutset.profilers.session import Arrays

MOST_STEPS = 4
"""Patterns reach at most so far up from their node."""
MOST_WORDS = 16
"""Words of a refusal that are compared: what is behind them is cut off somewhere else under longer names."""

Pattern = tuple[str, ...]
"""Nodes of a stage in graph order, the last of which is the one that is judged."""


class Neighbourhoods:
    """The nodes on the GPU with what is above them in their stages.

    Args:
        graph: The whole model, with the shapes of one run on `sample`; patterns are built for these.
        stages: Nodes of each GPU stage.
        sample: One complete input.
        oracle: The library.
        cache: Where answers are kept.
    """

    def __init__(
        self, graph: ModelGraph, stages: Sequence[Sequence[str]], sample: Arrays, oracle: Oracle, cache: CostCache
    ) -> None:
        self._graph, self._oracle, self._cache = graph, oracle, cache
        self._stage = {name: index for index, nodes in enumerate(stages) for name in nodes}
        self._vectors = small_vectors(graph, sample, [graph.by_name[name] for name in self._stage])
        self._elements = {name: vector.tolist() for name, vector in self._vectors.items()}
        self._probed = Probed(graph)
        self._kinds: dict[Pattern, Any] = {}

    def refuse(self, culprit: Culprit, progress: Callable[[str], None] = lambda _text: None) -> dict[str, str]:
        """Return the reason against the culprit, then those against all that are like it.

        Args:
            culprit: A node of the stages.
            progress: Told what is being tried.
        """
        refused = {culprit.node: culprit.reason}
        pattern = self._pattern(culprit, progress)
        if pattern is None:
            return refused
        kinds: dict[str, list[Pattern]] = {}
        for other in self._candidates(pattern):
            kinds.setdefault(repr(self._kind(other)), []).append(other)
        own = repr(self._kind(pattern))
        refused |= {one[-1]: _as(culprit.node) for one in kinds.pop(own, [])}
        if kinds:
            progress(f"asking {self._oracle.title} about {len(kinds)} kinds of node that resemble `{culprit.node}`")
        firsts = [members[0] for members in kinds.values()]
        for first, words in zip(firsts, self._judge(firsts, culprit.reason), strict=True):
            if words:
                refused[first[-1]] = words
                refused |= {one[-1]: _as(first[-1]) for one in kinds[repr(self._kind(first))][1:]}
        return refused

    def _pattern(self, culprit: Culprit, progress: Callable[[str], None]) -> Pattern | None:
        """Return the nearest surroundings with which the culprit is refused as it was, None where there are none."""
        reaches = [self._above(culprit.node, steps) for steps in range(MOST_STEPS + 1)]
        wider = [reaches[0], *(after for before, after in pairwise(reaches) if after != before)]
        for pattern in wider:
            progress(f"building `{culprit.node}` with {len(pattern) - 1} nodes above it")
            if self._kind(pattern) is not None and any(self._judge([pattern], culprit.reason)):
                return pattern
        return None

    def _above(self, node: str, steps: int) -> Pattern:
        """Return a node and those of its stage on which it depends in so many steps."""
        graph, found = self._graph, {node}
        edge = found
        for _ in range(steps):
            reads = {value for name in edge for value in graph.by_name[name].inputs}
            edge = {graph.producer[value] for value in reads if value in graph.producer} - found
            edge = {name for name in edge if self._stage.get(name) == self._stage[node]}
            found = found | edge
        return tuple(sorted(found, key=graph.position.__getitem__))

    def _candidates(self, pattern: Pattern) -> list[Pattern]:
        """Return the patterns of all other nodes that have the same operators."""
        by_name, wanted = self._graph.by_name, self._operators(pattern)
        steps = next(count for count in range(MOST_STEPS + 1) if self._above(pattern[-1], count) == pattern)
        same = [name for name in self._stage if by_name[name].op == by_name[pattern[-1]].op and name != pattern[-1]]
        found = [other for name in same if self._operators(other := self._above(name, steps)) == wanted]
        return [one for one in found if self._kind(one) is not None]

    def _operators(self, pattern: Pattern) -> Counter[Any]:
        return Counter(self._graph.by_name[name].op for name in pattern)

    def _kind(self, nodes: Pattern) -> Any | None:
        """Return what the library's answer about nodes depends on, None where it is not known."""
        if nodes not in self._kinds:
            self._kinds[nodes] = kind_of(self._probed, nodes, self._elements.get, self._oracle, builder="engine")
        return self._kinds[nodes]

    def _given(self, name: str) -> EngineInput:
        shape, vector = self._graph.shape(name), self._vectors.get(name)
        values = () if vector is None else tuple(int(element) for element in vector.ravel())
        return EngineInput(name=name, shapes=(shape, shape, shape), values=(values, values, values))

    def _judge(self, patterns: Sequence[Pattern], reason: str) -> list[str]:
        """Return the library's words for each pattern that it refuses for this reason with its last node only, else nothing."""
        refusals = self._build(patterns)
        suspects = [
            index for index, words in enumerate(refusals) if words and self._gist(words) == self._gist(reason)
        ]  # fmt: skip
        before = self._build([patterns[index][:-1] for index in suspects])
        guilty = {index for index, words in zip(suspects, before, strict=True) if words == ""}
        return [str(words) if index in guilty else "" for index, words in enumerate(refusals)]

    def _build(self, parts: Sequence[Pattern]) -> list[str | None]:
        """Return for each part the library's words against it, nothing where it builds, and None where that cannot be told."""
        keys = [self._kind(part) for part in parts]
        answers: list[str | None] = [
            "" if not part else None if key is None else self._cache.get(key) for part, key in zip(parts, keys, strict=True)
        ]
        unknown = [index for index, answer in enumerate(answers) if answer is None and keys[index] is not None]
        if not unknown:
            return answers
        segments = [segment_of(self._graph, parts[index]) for index in unknown]
        ranges = {name: self._given(name) for segment in segments for name in segment.inputs}
        with tempfile.TemporaryDirectory(prefix="cutset-alike-") as folder:
            found = build_segments(self._graph, segments, ranges, self._oracle, Path(folder), PROBE_LIMITS)
        for index, failure in zip(unknown, found, strict=True):
            if failure is None or failure.kind in {"raised", "crashed"}:  # the rest may be otherwise on another day
                answers[index] = words_of(failure) if isinstance(failure, Failure) else ""
                self._cache.put(keys[index], answers[index])
        return answers

    def _gist(self, words: str) -> list[str]:
        """Return the words of a refusal without names, numbers and places, which differ from node to node."""
        plain = (word for word in words.split() if not re.search(r"[\d/`]", word))
        return [word for word in plain if word.strip("()[],:;.\"'") not in self._graph.by_name][:MOST_WORDS]


def _as(node: str) -> str:
    return f"as `{node}`, which is alike"
