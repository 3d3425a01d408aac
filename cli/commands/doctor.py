"""`cutset doctor`: what works on this machine, and the way out for what does not."""

from __future__ import annotations

import click

from cutset import serde
from cutset.cli.options import shared
from cutset.cli.output import Output, size
from cutset.profilers.availability import availability
from cutset.profilers.environment import environment


@click.command(name="doctor")
@shared
def command(output: Output) -> None:
    """Say what works on this machine, and the way out for what does not."""
    with output.progress() as progress:
        progress("looking at this machine")
        machine, found = environment(), availability()
    if output.as_json:
        output.json({"environment": serde.to_builtins(machine), "availability": serde.to_builtins(found)})
        return
    gpus = ", ".join(gpu.name for gpu in machine.gpus) or "none"
    output.line(
        f"CPU: {machine.cpu}, {machine.usable_cores} of {machine.logical_cores} cores usable, {size(machine.memory_bytes)}"
    )
    output.line(f"GPU: {gpus}")
    rows = [(item.name, item.state, item.detail, item.hint) for item in found]
    output.table("What can be used here", ("what", "state", "detail", "way out"), rows)
