"""`python -m cutset`, and the `cutset` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from cutset.cli.main import run  # noqa: PLC0415 - keeps `import cutset` light

    sys.exit(run())


if __name__ == "__main__":
    main()
