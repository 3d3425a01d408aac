"""Only the state "ready" makes a backend usable."""

from typing import get_args

import pytest

from cutset.devices import Availability, AvailabilityState


@pytest.mark.parametrize("state", get_args(AvailabilityState))
def test_only_ready_is_usable(state):
    assert Availability(name="cuda", state=state, detail="d").ready is (state == "ready")
