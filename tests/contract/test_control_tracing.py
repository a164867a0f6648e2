"""Spans of requests, where OpenTelemetry is installed."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sealos_devbox import ServerError
from sealos_devbox._async.control import tracing
from tests.contract.control import client, control_plane
from tests.fakes.control_documents import HTML_ERROR, TOKEN

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # A process has one provider for ever: a test has its own.
    monkeypatch.setattr(tracing, "_looked", True)
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


async def test_a_span_for_each_request(spans: InMemorySpanExporter) -> None:
    with control_plane() as plane:
        plane.add("mybox")
        async with client(plane) as devbox:
            plane.fail("GET", "/api/v1/devbox/mybox", HTML_ERROR)
            await devbox.get("mybox")
            plane.fail("GET", "/api/v1/devbox/mybox", HTML_ERROR, times=9)
            with pytest.raises(ServerError):
                await devbox.get("mybox")
    found = spans.get_finished_spans()
    assert [span.name for span in found] == [
        "GET /api/v1/devbox",
        "GET /api/v1/devbox/{name}",
        "GET /api/v2alpha/devbox/{name}",
        "GET /api/v1/devbox/{name}",
    ]
    assert {span.kind for span in found} == {SpanKind.CLIENT}
    first, second, _, last = found
    assert first.attributes is not None
    assert second.attributes is not None
    assert first.attributes["http.response.status_code"] == 200
    assert first.attributes["http.request.resend_count"] == 0
    assert second.attributes["http.request.resend_count"] == 1
    assert (first.status.status_code, last.status.status_code) == (
        StatusCode.UNSET,
        StatusCode.ERROR,
    )
    assert TOKEN not in "".join(span.to_json() for span in found)


async def test_without_it_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_looked", False)
    monkeypatch.setattr(tracing, "_tracer", None)
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.trace", None)
    with control_plane() as plane:
        async with client(plane) as devbox:
            assert await devbox.list() == []
    assert tracing._tracer is None
