"""Any name becomes legal, stays different from every other, and comes back."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.codegen.export.names import KUBERNETES, TRITON, legal_name, original_name
from cutset.errors import UsageError

LEGAL = {TRITON: r"[A-Za-z0-9_~-]+", KUBERNETES: r"[a-z]([a-z0-9-]*[a-z0-9])?"}
SURROGATES = st.characters(exclude_categories=["Cs"])


@pytest.mark.parametrize("alphabet", LEGAL, ids=lambda alphabet: alphabet.system)
@given(name=st.text(SURROGATES, min_size=1, max_size=8))
@settings(max_examples=60)
def test_there_and_back(alphabet, name):
    try:
        made = legal_name(name, alphabet)
    except UsageError:
        return  # as the test of long names says
    assert re.fullmatch(LEGAL[alphabet], made)
    assert len(made) <= alphabet.longest
    assert original_name(made, alphabet) == name


@pytest.mark.parametrize(
    ("name", "triton", "kubernetes"),
    [
        ("resnet50", "resnet50", "cutset-resnet50"),
        ("ResNet-50.v2", "ResNet-50~2ev2", "cutset--52es-4eet-2d50-2ev2"),
        ("..", "~2e~2e", "cutset--2e-2e"),
        ("a~2e", "a~7e2e", "cutset-a-7e2e"),
        ("é", "~c3~a9", "cutset--c3-a9"),
    ],
)
def test_examples(name, triton, kubernetes):
    assert legal_name(name, TRITON) == triton
    assert legal_name(name, KUBERNETES) == kubernetes


def test_a_name_that_is_too_long():
    with pytest.raises(UsageError, match="too long for Kubernetes: 107 characters of at most 63") as caught:
        legal_name("x" * 100, KUBERNETES)
    assert "--name" in caught.value.hint
    assert legal_name("x" * 100, TRITON) == "x" * 100
