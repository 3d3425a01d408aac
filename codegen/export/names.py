"""Names of models made legal for other systems, and back: one escape in every alphabet.

A character outside the alphabet becomes its UTF-8 bytes, each an escape character and two hexadecimal digits; the escape
character itself is outside. So different names stay different, and `original_name` gives the name back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cutset.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphabet:
    """What a system takes as a name.

    Args:
        system: Whose names these are, in words.
        safe: ASCII characters that stay as they are, as the inside of a regular expression's brackets.
        escape: What stands before the two digits of a byte.
        longest: Most characters.
        prefix: How every name begins.
    """

    system: str
    safe: str
    escape: str
    longest: int
    prefix: str = ""


TRITON = Alphabet(system="Triton", safe="A-Za-z0-9_-", escape="~", longest=200)
"""A folder's name and one segment of a URL; the stages append up to 55 bytes."""
KUBERNETES = Alphabet(system="Kubernetes", safe="a-z0-9", escape="-", longest=63, prefix="cutset-")
"""A label of RFC 1035: lower case, from a letter to a letter or digit."""


def legal_name(name: str, alphabet: Alphabet) -> str:
    """Return `name` in an alphabet; `original_name` is the way back.

    Raises:
        UsageError: If it is too long there.
    """
    safe = re.compile(f"[{alphabet.safe}]")
    made = alphabet.prefix + "".join(
        letter if safe.fullmatch(letter) else "".join(f"{alphabet.escape}{byte:02x}" for byte in letter.encode())
        for letter in name
    )
    if len(made) > alphabet.longest:
        raise UsageError(
            f"the name {name!r} is too long for {alphabet.system}: {len(made)} characters of at most {alphabet.longest}",
            hint="give a shorter one with --name",
        )
    return made


def original_name(made: str, alphabet: Alphabet) -> str:
    """Return the name that `legal_name` made `made` of."""
    escaped = re.escape(alphabet.escape).encode() + rb"([0-9a-f]{2})"
    body = made.removeprefix(alphabet.prefix).encode()
    return re.sub(escaped, lambda found: bytes.fromhex(found[1].decode()), body).decode()
