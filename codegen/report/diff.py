"""The report's view of what changed since a baseline: then and now of every check, group and moved node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHOWN = 30
"""Groups that are shown before the rest is folded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One group, or what only one of the two has.

    Args:
        what: Its first node.
        more: How many nodes it has besides.
        device: Where it is costed.
        then_s: Seconds in the baseline, None if it was not there.
        now_s: Seconds now, None if it is gone.
        word: What came of it.
        source: Where the new number came from.
    """

    what: str
    more: int
    device: str
    then_s: float | None
    now_s: float | None
    word: str
    source: str

    @property
    def added_s(self) -> float:
        """Seconds that it adds to the model."""
        return (self.now_s or 0.0) - (self.then_s or 0.0)


def diff_view(diff: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template shows of a ``diff.json``: the document, and its groups by how many seconds they changed."""
    rows = [
        Row(
            what=group["what"], more=group["nodes"] - 1, device=group["device"], then_s=group["then_s"], now_s=group["now_s"],
            word=_word(group), source="" if group["source"] == "measured" else group["source"],
        )
        for group in diff.get("groups", ())
    ]  # fmt: skip
    rows += [_alone(group, "gone", then=True) for group in diff.get("gone", ())]
    rows += [_alone(group, "new", then=False) for group in diff.get("new", ())]
    rows.sort(key=lambda row: -abs(row.added_s))
    longest = max((value for row in rows for value in (row.then_s, row.now_s) if value), default=0.0) or 1.0
    return {**diff, "rows": rows[:SHOWN], "more_rows": rows[SHOWN:], "longest": longest}


def _word(group: Mapping[str, Any]) -> str:
    word = {"same": "within noise", "slower": "dearer", "faster": "cheaper"}[group["verdict"]]
    return word if group["same_work"] else f"{word}, computes something else"


def _alone(group: Mapping[str, Any], word: str, *, then: bool) -> Row:
    cost: float = group["latency_s"]
    return Row(
        what=group["what"], more=group["nodes"] - 1, device=group["device"], then_s=cost if then else None,
        now_s=None if then else cost, word=word, source="",
    )  # fmt: skip
