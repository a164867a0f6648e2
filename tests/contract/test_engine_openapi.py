"""The engine's own descriptions are true, whatever is sent to it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    positive_data_acceptance,
)

from sealos_devbox.server.processes import Processes
from sealos_devbox.server.run import Served, serving
from sealos_devbox.server.settings import EngineSettings

TOKEN = "sesame-of-the-tests"
EXAMPLES = settings(
    max_examples=2,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # schemathesis says itself what was sent
    suppress_health_check=list(HealthCheck),
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# What the service says with 500 on purpose. A bug would say something else, or nothing.
MEANT = ("Internal server error", "request error", "Max retries", "A new port must have a number")


class NoProcesses(Processes):
    """Starts nothing."""

    def start(self, *arguments: Any, **more: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory")


@pytest.fixture(params=["M", "R"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    settings = EngineSettings(
        tmp_path,
        token=TOKEN,
        lineage=request.param,
        start_seconds=0,
        commit_seconds=0,
        sample_seconds=3600,
    )
    with serving(settings) as served:
        served.app.state.engine.store.create("a")
        yield served


def every_operation(
    schema: Any,
    check: Callable[[schemathesis.Case], None],
    wanted: Callable[[str], bool] = lambda _: True,
) -> int:
    """Check each operation with a few requests, some of which are as described and some not."""
    count, found = 0, []
    for result in schema.get_all_operations():
        operation = result.ok()
        if not wanted(operation.path):
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)
                EXAMPLES(given(strategy)(check))()
            except Unsatisfiable:
                continue  # there is nothing in it that could be wrong
            except (AssertionError, FailureGroup) as error:
                found.append(f"{operation.label}: {error}")
        count += 1
    assert not found, "\n\n".join(found)
    return count


def test_the_control_plane(served: Served) -> None:
    lineage = served.app.state.engine.settings.lineage
    schema = schemathesis.openapi.from_url(
        f"{served.url}/openapi.json", headers={"Authorization": TOKEN}
    )

    def check(case: schemathesis.Case) -> None:
        response = case.call(headers={"Authorization": TOKEN})
        if response.status_code == 500:
            body = response.json()
            message = body.get("message") or body["error"]["message"]
            assert message.startswith(MEANT), body
        excluded = [not_a_server_error, ignored_auth]
        if lineage == "R":
            excluded += [negative_data_rejection, missing_required_header]  # 200 is all it says
        if case.path.endswith("/monitor"):
            excluded.append(positive_data_acceptance)  # start has to be before end
        if isinstance(case.body, dict) and case.body.get("env"):
            excluded.append(positive_data_acceptance)  # each needs a value, or where it is
        if case.path.startswith("/api/v2alpha/") and case.method == "DELETE":
            excluded.append(negative_data_rejection)  # what cannot exist is gone already
        case.validate_response(response, excluded_checks=excluded)

    if lineage == "R":  # what it has of its own
        own = every_operation(schema, check, lambda path: "/v1/" in path and "{" not in path)
        assert own == 10
    else:
        assert every_operation(schema, check) >= 35


@pytest.mark.parametrize("served", ["M"], indirect=True)  # it is the same in both
def test_the_agent(served: Served) -> None:
    engine = served.app.state.engine
    box = engine.box("a")
    headers = {"Authorization": f"Bearer {box.record.secret}"}
    schema = schemathesis.openapi.from_url(
        f"{served.url}/openapi-agent.json", headers={"Authorization": TOKEN}
    )
    # What is sent must not be carried out: any command could be among it.
    engine.processes = NoProcesses()
    address = f"{served.url}/box/{box.record.unique_id}/agent"

    def check(case: schemathesis.Case) -> None:
        response = case.call(headers=headers, base_url=address)
        # It says 200 to most of what is wrong, and the rest in the body.
        excluded = [negative_data_rejection, missing_required_header]
        case.validate_response(response, excluded_checks=excluded)

    assert every_operation(schema, check) >= 30
