"""What counts as a regression: the checks, and the limit of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from cutset.errors import UsageError

Kind = Literal["share", "amount", "any", "moves"]

OFF = math.inf
"""Limit of a check that is left out."""

REFUSED = 1.0
"""Limit of moves: only those that a device's refusal forces count, not those that costs decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that may get worse.

    Args:
        title: In words.
        kind: Whether its limit is a share of what was, an amount, any change at all, or any move of a node.
        default: The limit; `OFF` leaves it out.
        measured: Whether it depends on what was measured, and so is measured again before it fails.
        portable: Whether records of two machines can be compared in it.
    """

    title: str
    kind: Kind
    default: float
    measured: bool = False
    portable: bool = True


CHECKS: Mapping[str, Check] = {
    "cost": Check(title="CPU cost", kind="share", default=0.05, measured=True, portable=False),
    "group": Check(title="dearer groups", kind="share", default=0.05, measured=True, portable=False),
    "gpu-cost": Check(title="GPU cost", kind="share", default=0.05, measured=True, portable=False),
    "throughput": Check(title="predicted throughput", kind="share", default=0.05, measured=True, portable=False),
    "latency": Check(title="predicted latency", kind="share", default=OFF, measured=True, portable=False),
    "gain": Check(title="gain over the best simple plan", kind="share", default=OFF, measured=True),
    "measured-gain": Check(title="measured gain over the unsplit model", kind="share", default=0.1),
    "kernels": Check(title="kernels", kind="share", default=0.1),
    "placement": Check(title="placement", kind="moves", default=0.0, measured=True),
    "stages": Check(title="stages", kind="moves", default=0.0, measured=True),
    "bottleneck": Check(title="predicted bottleneck", kind="any", default=OFF, measured=True, portable=False),
    "error": Check(title="numerical error", kind="amount", default=1e-3),
    "engine-size": Check(title="engine size", kind="share", default=0.1),
    "package-size": Check(title="package size", kind="share", default=0.1),
}
"""By the name that ``--fail-on`` knows, in the order they are shown."""

Limits = Mapping[str, float]

_NUMBER = re.compile(r"(\d+(?:\.\d*)?(?:e-?\d+)?)(\s*%)?", re.IGNORECASE)


def parse_limits(texts: Iterable[str]) -> Limits:
    """Return the limit of every check: those of ``cost=5%,placement=any,latency=off``, the defaults for the rest.

    Raises:
        UsageError: If a check is not known, or a limit is of no kind that it takes.
    """
    limits = {name: check.default for name, check in CHECKS.items()}
    for text in (part.strip() for given in texts for part in given.split(",")):
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in CHECKS:
            raise UsageError(f"--fail-on {text!r} names no check", hint=f"there are {', '.join(CHECKS)}")
        limits[name] = _limit(name, value)
    return limits


def _limit(name: str, text: str) -> float:
    kind, number = CHECKS[name].kind, _NUMBER.fullmatch(text)
    if text == "off":
        return OFF
    if text == "any":
        return 0.0
    if text == "refused" and kind == "moves":
        return REFUSED
    if number is None or kind in {"any", "moves"} or (kind == "amount" and number[2]):
        example = {"share": "5%", "amount": "0.001", "any": "any", "moves": "refused"}[kind]
        raise UsageError(f"--fail-on {name}={text} is no limit", hint=f"for example --fail-on {name}={example}, or {name}=off")
    value = float(number[1])
    return value / 100 if number[2] else value


def shown_limit(name: str, limit: float) -> str:
    """Return a limit as ``--fail-on`` takes it."""
    if limit == OFF:
        return "off"
    if CHECKS[name].kind == "share":
        return f"{limit:.4g}" if limit and limit < 1e-4 else f"{limit * 100:.4g}%"
    if CHECKS[name].kind == "moves" and limit == REFUSED:
        return "refused"
    return f"{limit:g}" if limit else "any"
