"""Limits as people write them."""

import math

import pytest

from cutset.codegen.ci.limits import CHECKS, parse_limits, shown_limit
from cutset.errors import UsageError


def test_limits():
    found = parse_limits(
        ["cost=7%, placement=any", "error=1e-4", "kernels=any", "throughput=off", "gain=0.5", "stages=refused"]
    )
    assert found["cost"] == pytest.approx(0.07)
    assert (found["placement"], found["error"], found["kernels"], found["gain"]) == (0.0, 1e-4, 0.0, 0.5)
    assert found["throughput"] == math.inf
    assert shown_limit("stages", found["stages"]) == "refused"
    assert found["package-size"] == CHECKS["package-size"].default


@pytest.mark.parametrize(
    "text", ["", "cost", "cost=", "speed=5%", "cost=-5%", "placement=5%", "error=5%", "cost=nan", "cost=inf%", "cost=refused"]
)
def test_limits_that_are_none(text):
    with pytest.raises(UsageError, match="--fail-on"):
        parse_limits([text])


def test_limits_are_shown_as_they_are_written():
    for name, check in CHECKS.items():
        assert parse_limits([f"{name}={shown_limit(name, check.default)}"])[name] == pytest.approx(check.default)
