"""Write docs/cli.md from the command line itself, so that the two cannot differ (a test compares them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cutset.cli.main import COMMANDS, cli

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 100


def reference() -> str:
    """Return the reference as Markdown: the help of every command."""
    settings: dict[str, Any] = {**cli.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    parts = ["# Command line", "", "Written by `make docs` from the commands themselves.", ""]
    root = click.Context(cli, info_name="cutset", **settings)
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root, **settings)
        parts += [f"## cutset {name}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(reference(), "utf-8")
