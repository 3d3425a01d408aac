"""Which nodes run somewhere else than they did, and why."""

from __future__ import annotations

from dataclasses import dataclass

from cutset.codegen.ci.record import Planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A node that runs elsewhere, or one that is new and has no choice.

    Args:
        node: Its name.
        then: Device before, empty for a new node.
        now: Device now.
        reason: Why it has no choice now; empty where the costs decided.
    """

    node: str
    then: str
    now: str
    reason: str

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        where = f"from {self.then} to {self.now}" if self.then else f"is new and on the {self.now}"
        return f"`{self.node}` {where}" + (f": {self.reason}" if self.reason else "")


def moves_between(then: Planned, now: Planned) -> tuple[Move, ...]:
    """Return the nodes that both plans place, differently; and new ones that a GPU refuses, where there is one to refuse.

    Those without a choice come first: they are why others follow.
    """
    found = [
        Move(node=name, then=then.placement.get(name, ""), now=device, reason=now.forced.get(name, ""))
        for name, device in now.placement.items()
        if then.placement.get(name, device) != device
    ]
    if "gpu" in {*then.devices, *now.devices}:
        found += [
            Move(node=name, then="", now="cpu", reason=now.forced[name])
            for name, device in now.placement.items()
            if name not in then.placement and device == "cpu" and name in now.forced
        ]
    return tuple(sorted(found, key=lambda move: not move.reason))
