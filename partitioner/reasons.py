"""Why every node is where it is, in one sentence each: from the costs and the exact price of moving it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from cutset.graph.model import ModelGraph
from cutset.partitioner.atoms import Atom
from cutset.partitioner.cost import Costed
from cutset.partitioner.evaluation import Evaluation
from cutset.partitioner.incremental import Devices, Positions
from cutset.partitioner.phases import Window
from cutset.partitioner.problem import CPU, Placement

WEIGHED = "with what crosses, the whole is best with it on the"
"""In the reason of every node that had a choice."""

_NAMES = ("CPU", "GPU")
_QUOTED = re.compile(r"`[^`]*`")
_BRACKETED = re.compile(r"\(\S+\)")
"""A name in the words of a GPU library."""
_PLACE = re.compile(r"\s*In \w+ at \S+?(?=\)|$)")
"""Where in its own source a GPU library refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What moving one op to its other device would change, all else left alone.

    Args:
        bottleneck_s: Seconds more between requests.
        latency_s: Seconds more for one request.
        saved_s: Seconds of computing that it would save; negative where the other device is slower.
        copied_s: Seconds of copies that it would add; negative where it would save some.
        fits: Whether the pipeline would still have no more stages than allowed.
    """

    bottleneck_s: float
    latency_s: float
    saved_s: float
    copied_s: float
    fits: bool


class Moves:
    """Prices the moves of single ops in a placement, each in time of the op's degree."""

    def __init__(self, costed: Costed, placement: Placement, evaluation: Evaluation, max_stages: int) -> None:
        problem = costed.problem
        self._problem = problem
        self._evaluation = evaluation
        self._devices = Devices(problem, placement)
        window = Window(low=evaluation.first, high=evaluation.first + max_stages - 1)
        self._positions = Positions(problem, self._devices.device, window)
        self._demand = np.array([evaluation.demand_s[name] for name in evaluation.demand_s])

    def of(self, v: int) -> Move:
        """Return what moving op `v`, which can run on either device, would change; stage overheads left out."""
        cpu_s, gpu_s, h2d_s, d2h_s = self._devices.difference(v)
        load = self._problem.shares @ (self._demand + np.array([cpu_s, gpu_s, h2d_s, d2h_s]))
        faster_s = float(self._problem.cpu_s[v] - self._problem.gpu_s[v])
        return Move(
            bottleneck_s=float(load.max()) - self._evaluation.bottleneck_s,
            latency_s=cpu_s + gpu_s + h2d_s + d2h_s,
            saved_s=faster_s if self._devices.device[v] == CPU else -faster_s,
            copied_s=h2d_s + d2h_s,
            fits=self._positions.allows(v),
        )


def reasons_of(graph: ModelGraph, costed: Costed, placement: Placement, moves: Moves | None) -> dict[str, str]:
    """Return one sentence a node: the reason for its device.

    Args:
        graph: The model.
        costed: The atoms and their problem.
        placement: Of the atoms.
        moves: Prices of moves, or None where the model is left whole and no single move means anything.
    """
    reasons = {}
    for index, atom in enumerate(costed.atoms):
        text = atom.reason or _weighed(atom, int(placement[index]), None if moves is None else moves.of(index))
        if len(atom.nodes) > 1 and not atom.reason:
            text += f" (one of {len(atom.nodes)} nodes that stay together with `{atom.nodes[0]}`)"
        reasons.update(dict.fromkeys(atom.nodes, text))
    for node in graph.nodes:
        if node.name in graph.dead_nodes:
            reasons[node.name] = "no output depends on it: it is not computed"
        elif node.name in graph.constant_nodes:
            reasons[node.name] = "depends on weights alone: copied to where it is read"
    return {node.name: reasons[node.name] for node in graph.nodes}


def _weighed(atom: Atom, device: int, move: Move | None) -> str:
    text = f"{_us(atom.cpu_s)} measured on the CPU, {_us(atom.gpu_s)} {atom.gpu_source} on the GPU; {WEIGHED} {_NAMES[device]}"
    return text if move is None else f"{text}: {describe(move, device)}"


def describe(move: Move, device: int) -> str:
    """Return in words what moving an op away from `device` would cost."""
    there = _NAMES[1 - device]
    if not move.fits:
        return f"on the {there} the pipeline would need more stages than allowed"
    if move.saved_s > 0 and move.copied_s >= move.saved_s:
        return f"too small to pay the transfer: the {there} would save {_us(move.saved_s)} and copies take {_us(move.copied_s)}"
    if move.bottleneck_s > 0:
        return f"moving it would cost +{_us(move.bottleneck_s)} at the bottleneck"
    if move.latency_s > 0:
        return f"moving it would cost +{_us(move.latency_s)} of latency and nothing at the bottleneck"
    return "moving it alone would gain less than a stage must"


def kind_of_reason(reason: str) -> str:
    """Return a reason with its names left out: reasons that differ in names alone are of one kind."""
    return _PLACE.sub("", _BRACKETED.sub("(…)", _QUOTED.sub("`…`", reason)))


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"
