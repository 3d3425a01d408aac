"""What `--emit` asks for."""

import pytest

from cutset.codegen.export.write import EXPORTS, Exports, check_exports, parse_exports
from cutset.errors import UsageError


@pytest.mark.parametrize(
    ("text", "kinds"),
    [("python", ()), ("", ()), ("python, triton", ("triton",)), (",".join(reversed(EXPORTS)), tuple(EXPORTS))],
)
def test_names_in_any_order(text, kinds):
    assert parse_exports(text, "python") == Exports(kinds=kinds)


def test_an_unknown_name():
    with pytest.raises(UsageError, match="--emit 'torch' is unknown") as caught:
        parse_exports("triton,torch", "python")
    assert "triton" in caught.value.hint


def test_a_name_that_an_export_cannot_take_is_refused_before_any_work():
    with pytest.raises(UsageError, match="too long for Triton"):
        check_exports(Exports(kinds=("triton",)), "x" * 300)
    check_exports(Exports(), "x" * 300)
