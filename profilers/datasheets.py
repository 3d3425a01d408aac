"""Published properties of the GPUs a user can name as a target without having one.

Peak rates are dense and come from the vendor's documents; each sheet names them. Nothing here is a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from cutset.errors import UsageError
from cutset.serde import convert, read_json

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

SCHEMA = "cutset.datasheets/1"
DATA = Path(__file__).parent / "data" / "datasheets.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a pinned copy between host and device reaches.

    Args:
        bus: Kind of connection.
        h2d_bytes_per_s: Sustained rate towards the device.
        d2h_bytes_per_s: Sustained rate towards the host.
        fixed_s: Cost of a copy of no bytes: the call, the copy engine's start and the completion.
    """

    bus: str
    h2d_bytes_per_s: float
    d2h_bytes_per_s: float
    fixed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A public document and the numbers taken from it."""

    title: str
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasheet:
    """One GPU, as its vendor describes it.

    Args:
        id: What `--target` takes.
        name: Full name of the exact variant.
        compute_capability: ``major.minor``.
        fp32_flops: Operations a second of the ordinary cores.
        tf32_flops: Dense tensor-core rate, None where the hardware has no such type.
        fp16_flops: Dense tensor-core rate with fp32 accumulation.
        bf16_flops: Dense tensor-core rate, None where the hardware has no such type.
        int8_ops: Dense tensor-core rate.
        memory_bytes: Device memory.
        memory_bytes_per_s: Peak memory bandwidth.
        link: Connection to the host.
        kernel_launch_s: Least time that one kernel occupies the queue, however small it is.
        sources: Where the numbers come from.
    """

    id: str
    name: str
    compute_capability: str
    fp32_flops: float
    tf32_flops: float | None
    fp16_flops: float
    bf16_flops: float | None
    int8_ops: float
    memory_bytes: int
    memory_bytes_per_s: float
    link: Link
    kernel_launch_s: float
    sources: tuple[Reference, ...]

    def matrix_flops(self, precision: Precision) -> float:
        """Return the peak rate of matrix products at `precision`, in operations a second.

        Hardware without tf32 computes it as fp32, as TensorRT does there.

        Raises:
            UsageError: If the hardware has no bf16.
        """
        if precision == "bf16" and self.bf16_flops is None:
            raise UsageError(f"{self.name} has no bf16 arithmetic", hint="use --precision fp16 or fp32")
        rates = {
            "fp32": self.fp32_flops,
            "tf32": self.tf32_flops or self.fp32_flops,
            "fp16": self.fp16_flops,
            "bf16": self.bf16_flops or 0.0,
            "int8": self.int8_ops,
        }
        return rates[precision]


@cache
def datasheets() -> dict[str, Datasheet]:
    """Return every known sheet by id, in the file's order."""
    data = read_json(DATA, schema=SCHEMA)
    return {sheet.id: sheet for sheet in convert(data["sheets"], tuple[Datasheet, ...], where=str(DATA))}


def datasheet(id_: str) -> Datasheet:
    """Return the sheet with this id.

    Raises:
        UsageError: If there is none; the hint lists the known ids.
    """
    found = datasheets().get(id_)
    if found is None:
        raise UsageError(f"there is no data sheet for `{id_}`", hint=f"known targets: {', '.join(datasheets())}")
    return found
