"""Judge a split against the simple plans that could be deployed instead: as costed, and at both ends of the GPU costs.

The judge knows scores alone: requests a second, or the inverse of seconds a request. Larger is better; zero is impossible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cutset.partitioner.baselines import WORDS

MIN_GAIN = 0.02
"""A split that gains less than this over the best simple plan is not worth its moving parts."""

SPLIT = "split"
MID = "mid"
ENDS = {"low": "where the GPU is fastest", "high": "where the GPU is slowest"}
"""Ends of the GPU costs' interval, in words."""

_ROUNDING = 1e-9

Scores = Mapping[str, float]
"""Score of one plan at ``mid``, ``low`` and ``high`` GPU costs; ``mid`` alone where no GPU is planned for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Which plan to deploy, and the scores behind the decision.

    Attributes:
        winner: ``split``, or the name of a simple plan.
        split: Scores of the best split found.
        rivals: Scores of each simple plan that can be deployed.
        distinct: Whether the best split found differs from all simple plans.
        fewer: Whether the split is deployed for its fewer stages, and not for what it gains.
    """

    winner: str
    split: Scores
    rivals: Mapping[str, Scores]
    distinct: bool
    fewer: bool = False

    @property
    def scores(self) -> Scores:
        """Scores of the plan to deploy."""
        return self.split if self.winner == SPLIT else self.rivals[self.winner]

    def best_other(self, end: str = MID) -> str | None:
        """Return the best simple plan besides the winner at one end; None if there is no other."""
        others = {name: scores[end] for name, scores in self.rivals.items() if name != self.winner and scores[end] > 0}
        return max(others, key=lambda name: others[name], default=None)

    def gain(self, end: str = MID) -> float | None:
        """Return the winner's score over that of the best other simple plan at one end; None if there is no other.

        None also where the winner takes no time at all.
        """
        other = self.best_other(end)
        return None if other is None else _finite(self.scores[end] / self.rivals[other][end])

    def split_gain(self, end: str = MID) -> float | None:
        """Return the score of the best split found over that of the best simple plan at one end; None without any."""
        best = max((scores[end] for scores in self.rivals.values()), default=0.0)
        return self.split[end] / best if best > 0 else None

    def as_json(self) -> dict[str, Any]:
        """Return the decision as `plan.json` holds it under ``comparison``."""
        return {
            "chosen": self.winner,
            "against": self.best_other(),
            "gain": self.gain(),
            "ends": {end: {"against": self.best_other(end), "gain": self.gain(end)} for end in self.split if end != MID},
            "best_split": {end: _finite(self.split_gain(end)) for end in self.split} if self.distinct else None,
        }


def _finite(gain: float | None) -> float | None:
    return gain if gain is not None and math.isfinite(gain) else None


def judge(
    split: Scores, rivals: Mapping[str, Scores], *, distinct: bool = True, stages: Mapping[str, int] | None = None
) -> Judgement:
    """Return which plan to deploy.

    The split is deployed if it beats every simple plan by more than `MIN_GAIN` and loses to none at either end of the GPU
    costs' interval: a gain that a wrong guess of the GPU's speed turns into a loss is none. Otherwise the best simple
    plan is, where a simpler one within `MIN_GAIN` goes first. A split of fewer stages than that simple plan is the simpler
    of the two: it is deployed if it loses to no simple plan by more than `MIN_GAIN`, anywhere.

    Args:
        split: Scores of the best split found.
        rivals: Scores of each simple plan that can be deployed, by its name in `WORDS`.
        distinct: Whether the split differs from all of them.
        stages: Number of stages of the split, under `SPLIT`, and of each simple plan; the split has most by default.
    """
    rivals = {name: rivals[name] for name in WORDS if name in rivals and rivals[name][MID] > 0}
    simple = ""
    for name, scores in rivals.items():
        if not simple or scores[MID] > rivals[simple][MID] * (1 + MIN_GAIN):
            simple = name
    found = Judgement(winner=SPLIT, split=split, rivals=rivals, distinct=distinct)
    if not simple:
        return found
    gains = {end: found.split_gain(end) for end in split}
    gain = gains.pop(MID) or 0.0
    worst = min((end for end in gains.values() if end is not None), default=1.0)
    fewer = stages is not None and stages[SPLIT] < stages[simple]
    earns = gain > 1 + MIN_GAIN and worst >= 1 - _ROUNDING
    if distinct and earns:
        return found
    if distinct and fewer and min(gain, worst) >= 1 - MIN_GAIN:
        return replace(found, fewer=True)
    return Judgement(winner=simple, split=split, rivals=rivals, distinct=distinct)


def explain_choice(found: Judgement) -> str:
    """Return in half a sentence what the deployed plan gains over the best other simple plan, which is named.

    Empty where there is no other plan.
    """
    other, gain = found.best_other(), found.gain()
    if other is not None and gain is not None:
        return f"{gain:.2f}x {WORDS[other]}{_at_ends(found, other)}" + (" in fewer stages" if found.fewer else "")
    return "" if found.winner == SPLIT or refused_split(found) else "no split gains anything"


def refused_split(found: Judgement) -> str:
    """Return in a sentence what the best split found would have given; empty where that split is deployed or is no other."""
    if found.winner == SPLIT or not found.distinct:
        return ""
    mine = found.scores
    gains = {end: split / mine[end] for end, split in found.split.items() if mine[end] > 0}
    if not math.isfinite(gains[MID]):
        return ""
    text = f"The best split found gives {gains[MID]:.2f}x of this"
    rest = {end: gain for end, gain in gains.items() if end != MID}
    worst = min(rest, key=lambda end: rest[end], default="")
    if gains[MID] <= 1 + MIN_GAIN or not worst:
        return text + (", too little for its moving parts" if gains[MID] >= 1 else "")
    if rest[worst] < 1:
        return f"{text}, but {rest[worst]:.2f}x {ENDS[worst]}"
    loses = {end: gain for end in rest if (gain := found.split_gain(end)) is not None and gain < 1}
    if not loses:
        return f"{text}, and is no better than another simple plan"
    worst = min(loses, key=lambda end: loses[end])
    best = max(found.rivals, key=lambda name: found.rivals[name][worst])
    return f"{text}, but {loses[worst]:.2f}x {WORDS[best]} {ENDS[worst]}"


def _at_ends(found: Judgement, other: str) -> str:
    """Return the gains at both ends of the GPU costs, each with the simple plan that is best there."""
    gains = {end: found.gain(end) for end in found.split if end != MID}
    middle = found.gain()
    said = []
    for end, gain in gains.items():
        there = found.best_other(end)
        if gain is None or there is None or middle is None or round(gain, 2) == round(middle, 2):
            continue
        said.append(f"{gain:.2f}x {ENDS[end]}" + (f" ({WORDS[there]})" if there != other else ""))
    return f" ({', '.join(said)})" if said else ""
