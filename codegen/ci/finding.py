"""One thing that was compared, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cutset.codegen.ci.limits import CHECKS
from cutset.codegen.report import text

Verdict = Literal["same", "worse", "better", "noise", "skipped"]
Unit = Literal["s", "/s", "bytes", "count", "times", "share", "text"]

WORDS = {"same": "ok", "worse": "regression", "better": "better", "noise": "within noise", "skipped": "not compared"}
"""How verdicts are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found.

    Args:
        check: Which, as ``--fail-on`` names it.
        verdict: What came of it: ``noise`` is beyond the limit, but no more than measuring varies.
        then: The value in the baseline.
        now: The value now.
        unit: Of both.
        change: By which share it got worse; negative where it got better, None where there is no such number.
        note: What else there is to say, in one line.
        causes: What did it, the most important first.
    """

    check: str
    verdict: Verdict
    then: float | str | None = None
    now: float | str | None = None
    unit: Unit = "text"
    change: float | None = None
    note: str = ""
    causes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What was compared, in words."""
        return CHECKS[self.check].title

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        values = (
            "" if self.then is None and self.now is None else f" {shown(self.then, self.unit)} -> {shown(self.now, self.unit)}"
        )
        change = "" if self.change is None else f" ({self.change:+.1%})"
        rest = "; ".join(part for part in (self.note, "; ".join(self.causes)) if part)
        return f"{self.title}{values}{change}" + (f": {rest}" if rest else "")


def skipped(check: str, note: str) -> Finding:
    """Return that something was not compared, and why."""
    return Finding(check=check, verdict="skipped", note=note)


def weigh(change: float, limit: float, *, significant: bool) -> Verdict:
    """Return what a change means that is worse where it is positive."""
    if abs(change) <= limit or change == 0:
        return "same"
    if not significant:
        return "noise"
    return "worse" if change > 0 else "better"


def shown(value: float | str | None, unit: Unit) -> str:
    """Return a value as people write it."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if unit == "s":
        return text.seconds(value)
    if unit == "bytes":
        return text.size(int(value))
    return {"/s": f"{text.rate(value)} /s", "times": text.times(value), "count": f"{value:,.0f}"}.get(unit, f"{value:.2g}")
