"""The HTTP server against the protocol's description: schemathesis draws right and wrong requests and checks each answer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from cutset.codegen.runtime import Pipeline
from tests.e2e import openapi
from tests.e2e.test_runtime_server import QUOTED, running, write_package

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

pytestmark = pytest.mark.filterwarnings("default")
SCHEMA = schemathesis.openapi.from_dict(openapi.document(QUOTED))


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with running(Pipeline.load(write_package(tmp_path_factory.mktemp("package") / "p"))) as where:
        yield f"http://{where}"


@SCHEMA.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_the_protocols(url, case):
    """The one server error there may be is the model's own: an index that is out of range.

    A whole number that no float32 equals is refused, which the description has no word for.
    """
    checks = schemathesis.checks
    response = case.call(base_url=url, timeout=20)
    case.validate_response(response, excluded_checks=[checks.not_a_server_error, checks.positive_data_acceptance])
    assert response.status_code < 500 or "stage 1 failed" in response.json()["error"]
