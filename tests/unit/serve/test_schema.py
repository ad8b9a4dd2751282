"""What the service's own description promises, held against what it answers.

Schemathesis reads the description and asks every operation, by what follows the
description and by what does not; every answer must be of a documented status, type
and schema.
"""

import hypothesis
import pytest
from schemathesis import openapi
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from serve.page import PageSource

NUM_CASES = 20


@pytest.fixture
def operations(make_whole):
    schema = openapi.from_asgi("/openapi.json", make_whole(page=PageSource()))
    return [one.ok() for one in schema.get_all_operations()]


def ask(operation, mode):
    """Send generated requests of one kind; return how many were sent."""
    sent = []

    @hypothesis.settings(
        max_examples=NUM_CASES,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        sent.append(case)
        # A schema cannot say which ads there are: what follows it may be refused.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    send()
    return len(sent)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_one_that_is_described(operations, mode):
    for operation in operations:
        # Nothing wrong can be said to whoever reads no body.
        reads_body = "requestBody" in operation.definition.raw
        if mode is GenerationMode.NEGATIVE and not reads_body:
            continue
        assert ask(operation, mode) > 0


def test_every_operation_is_asked(operations):
    labels = {operation.label for operation in operations}
    assert {"POST /v1/decide", "POST /v1/clicks", "POST /admin/releases"} <= labels
