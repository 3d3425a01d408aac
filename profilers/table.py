"""CostTable: what every group of nodes and every transfer costs, where each number came from, and how sure it is.

This is the value behind `profile.json`; the planner reads nothing else about speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cutset import serde

Source = Literal["measured", "recorded", "modelled"]
Direction = Literal["h2d", "d2h"]
OptimizationLevel = Literal["none", "basic", "extended", "all"]

PROFILE_SCHEMA = "cutset.profile/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Distribution of one repeated measurement, in seconds.

    Args:
        median: Median of the accepted runs, or of their CPU time where too few were quiet.
        p10: 10th percentile.
        p90: 90th percentile.
        samples: Runs that the numbers are from; over `runs`, this is the acceptance rate.
        runs: Runs made.
        low: Lower end of the median's 95 % confidence interval, None where nothing was repeated.
        high: Upper end of it.
        settled: Whether the interval was within 5 % of the median when the runs stopped; else the budget ended them.
        clock: ``wall`` of undisturbed runs, or ``cpu`` (thread CPU time) when fewer than five ran undisturbed.
    """

    median: float
    p10: float
    p90: float
    samples: int
    runs: int = 0
    low: float | None = None
    high: float | None = None
    settled: bool = False
    clock: Literal["wall", "cpu", "model"] = "wall"

    @property
    def spread(self) -> tuple[float, float]:
        """Both ends of where runs and their median lie, over the median; one and one for a median of zero."""
        if not self.median:
            return 1.0, 1.0
        low, high = min(self.p10, self.low or self.p10), max(self.p90, self.high or self.p90)
        return low / self.median, high / self.median


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCost:
    """Latency of the whole model as one session.

    Args:
        device: ``cpu`` or ``gpu``.
        backend: What ran it.
        batch: Samples in one run.
        threads: Intra-op threads.
        latency_s: Seconds of one run.
        source: Where the number came from.
        workers: How many of them ran at the same time.
        optimization: How far onnxruntime was allowed to rewrite the graph.
    """

    device: str
    backend: str
    batch: int
    threads: int
    latency_s: Latency
    source: Source
    workers: int = 1
    optimization: OptimizationLevel = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassWork:
    """What a group does in operators of one class in one run.

    Args:
        launches: Kernels started.
        flops: Arithmetic operations.
        bytes: Bytes over the group's border.
        gathered: Elements of the patches that convolutions without a blocked layout copy together first.
    """

    launches: int
    flops: int
    bytes: int
    gathered: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCost:
    """Cost of one fused group of nodes on one device.

    Args:
        nodes: Names of the nodes, constant ones that feed only this group included.
        device: ``cpu`` or ``gpu``.
        backend: What ran or modelled it.
        batch: Samples in one run.
        latency_s: Seconds of one run, or None where the device cannot run the group (`reason` says why).
        low_s: Lower end of the interval.
        high_s: Upper end of the interval.
        source: Where the number came from.
        flops: Floating-point operations of one run.
        bytes: Bytes moved by one run.
        unfused_s: Seconds of each node run alone, unfused: the price of a cut inside the group.
        reason: Why the device cannot run it.
        signature: What the group computes, whatever its nodes are called (`signature.sign`); empty where a size is not known.
        canonical: The nodes that a placement is about, in the order of the signature: groups of one signature do the same
            node by node.
        work: Work by operator class (`workload.work_of`), from which costs can be modelled without the model.
        rows: Requests whose rows were computed by one run; `latency_s` is then one request's share of it.
        alone_s: Seconds of a run for one request where more shared the run that was measured, else None.
    """

    nodes: tuple[str, ...]
    device: str
    backend: str
    batch: int
    latency_s: float | None
    low_s: float | None
    high_s: float | None
    source: Source
    flops: int = 0
    bytes: int = 0
    unfused_s: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    signature: str = ""
    canonical: tuple[str, ...] = ()
    work: Mapping[str, ClassWork] = field(default_factory=dict)
    rows: int = 1
    alone_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferModel:
    """Affine cost of moving one tensor: `fixed_s` a copy plus bytes over `bytes_per_s`.

    Source:
        Hockney, "The communication challenge for MPP", Parallel Computing 20(3), 1994.
    """

    direction: Direction
    pinned: bool
    fixed_s: float
    bytes_per_s: float
    source: Source
    device: str = "gpu"

    def seconds(self, size_bytes: int) -> float:
        """Return the time to move `size_bytes` bytes; an empty tensor costs the fixed part."""
        return self.fixed_s + size_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """File name and digest of the profiled model."""

    file: str
    sha256: str
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of a model a recorded profile covers, and what stands in for the rest.

    Args:
        recorded: Groups whose cost was replayed.
        calibrated: Groups modelled by rates fitted to the recorded profile.
        datasheet: Groups modelled from a data sheet.
        unknown: Groups without a cost; they stay on the CPU.
        cpu_time_share: Share of the model's CPU time that the replayed groups take.
    """

    recorded: int
    calibrated: int
    datasheet: int
    unknown: int
    cpu_time_share: float

    @property
    def group_share(self) -> float:
        """Share of the groups whose cost was replayed."""
        total = self.recorded + self.calibrated + self.datasheet + self.unknown
        return self.recorded / total if total else 0.0


def _check_environment(environment: Mapping[str, Any]) -> None:
    """Check the fields of an environment that something reads; others are shown only.

    Raises:
        TypeError: If one is of another type.
    """
    kinds = {"cpu": str, "usable_cores": int, "packages": Mapping, "gpus": Sequence}
    wrong = [name for name, kind in kinds.items() if name in environment and not isinstance(environment[name], kind)]
    entries = environment.get("gpus", ()) if "gpus" not in wrong else ()
    if wrong or not all(isinstance(gpu, Mapping) for gpu in entries):
        raise TypeError(f"`environment.{(wrong or ['gpus'])[0]}` is of another type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine of a merged profile: what its own profile said beside sessions, groups and transfers.

    Args:
        model: The model's file there.
        environment: Machine and library versions.
        target: Its GPU, or None.
        shapes: Sizes of every value in its run.
        affine: Fit of its CPU session over batch sizes.
        coverage: What its GPU costs were replayed from.
    """

    model: ModelFile
    environment: Mapping[str, Any]
    target: Mapping[str, Any] | None
    shapes: Mapping[str, tuple[int, ...]]
    affine: tuple[float, float] | None = None
    coverage: Coverage | None = None

    def __post_init__(self) -> None:
        _check_environment(self.environment)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """All costs of one model on one machine, for one target.

    Args:
        model: What was profiled.
        target: Identity of the GPU that the ``gpu`` costs are for, or None for the CPU alone.
        environment: Machine and library versions.
        shapes: Sizes of every value in the profiled run.
        sessions: Whole-model latencies, one request alone.
        loaded: The same with every core busy, at the planned batch.
        groups: Per-group costs; those of one (device, backend, batch) cover every node exactly once.
        transfers: Cost of moving tensors, by direction.
        pieces: What parts of groups cost on the CPU, measured alone; the price of a cut inside a group.
        affine: ``(fixed_s, per_sample_s)`` of the CPU session over batch sizes, where more than one was measured.
        coverage: What the GPU costs were replayed from, where they come from a recorded profile.
        machines: Of a merged profile (`merge`), the machines; the devices are then called ``cpu:0``, ``gpu:0``, ``cpu:1``, ...
            after their index, and the fields above hold what the first machine says.
    """

    model: ModelFile
    target: Mapping[str, Any] | None
    environment: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    sessions: tuple[SessionCost, ...]
    groups: tuple[GroupCost, ...]
    transfers: tuple[TransferModel, ...]
    affine: tuple[float, float] | None = None
    loaded: tuple[SessionCost, ...] = ()
    coverage: Coverage | None = None
    machines: tuple[Machine, ...] = ()
    pieces: tuple[GroupCost, ...] = ()
    schema: str = PROFILE_SCHEMA

    def __post_init__(self) -> None:
        _check_environment(self.environment)

    def groups_on(self, device: str) -> tuple[GroupCost, ...]:
        """Return the groups of one device, in model order."""
        return tuple(group for group in self.groups if group.device == device)

    def piece(self, nodes: tuple[str, ...]) -> GroupCost | None:
        """Return the measured cost of a part of a group, if it was measured."""
        return next((piece for piece in self.pieces if piece.nodes == nodes), None)

    def session(self, device: str, *, loaded: bool = False) -> SessionCost | None:
        """Return the whole-model cost on `device` at the planned batch, if there is one.

        Args:
            device: ``cpu`` or ``gpu``.
            loaded: With every core busy, instead of alone.
        """
        found = [session for session in (self.loaded if loaded else self.sessions) if session.device == device]
        return found[-1] if found else None

    def transfer(self, direction: Direction) -> TransferModel | None:
        """Return the transfer model of one direction, if the table has a GPU."""
        return next((transfer for transfer in self.transfers if transfer.direction == direction), None)


def read_profile(path: Path) -> CostTable:
    """Return the cost table in `path`.

    Raises:
        UsageError: If the file is not a profile of this version.
    """
    return serde.convert(serde.read_json(path, schema=PROFILE_SCHEMA), CostTable, where=str(path))
