"""Foreign text, from a model or a file, made safe for terminals, logs and Markdown: nothing in it acts, and all of it shows.

Everything Cutset prints passes here on its way out. A terminal obeys escape sequences; systems that run jobs obey commands
in a job's log: GitHub lines that begin with ``::``, and ``##[command]`` anywhere in a line, as do Azure (``##vso[``) and
TeamCity (``##teamcity[``).
"""

from __future__ import annotations

import re

_COMMAND = re.compile(r"##(?=\w*\[)")
_COMMAND_LINE = re.compile(r"^( *):")
_HIDDEN = re.compile(r"[^\x20-\x7e]")


def visible(text: str) -> str:
    """Return `text` on one line, with every letter that would not show, or would reorder others, as an escape.

    What HTML or Markdown gives a meaning is left alone: quoting belongs to the place where the text is put.
    """
    text = text if text.isprintable() else "".join(map(_shown, text))
    return _COMMAND.sub(r"\\x23#", text)


def visible_line(text: str) -> str:
    """Return `text` as `visible` does, for a line that begins with it; a colon that begins the line shows as an escape."""
    return _COMMAND_LINE.sub(r"\1\\x3a", visible(text))


def visible_json(text: str) -> str:
    """Return JSON of the same meaning in which every letter shows; its own line breaks stay."""
    if not text.replace("\n", "").isprintable():
        text = _HIDDEN.sub(lambda found: found[0] if found[0] == "\n" or found[0].isprintable() else _unit(found[0]), text)
    return _COMMAND.sub(r"\\u0023#", text)


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode("ascii")


def _unit(letter: str) -> str:
    """Return a letter as JSON escapes its UTF-16 units."""
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2))
