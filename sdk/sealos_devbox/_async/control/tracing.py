"""Spans for OpenTelemetry, if the user has it installed; nothing otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sealos_devbox._version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

__all__ = ["Span", "request_span"]

_tracer: Tracer | None = None
_looked = False


class Span:
    """What is noted of one request."""

    def __init__(self) -> None:
        self.attributes: dict[str, str | int] = {}
        """By the names of OpenTelemetry's conventions for HTTP clients."""
        self.error = ""
        """What kind of failure it ended with; empty for none."""


@contextmanager
def request_span(name: str, attributes: Mapping[str, str | int]) -> Iterator[Span]:
    """Make a span of the block; what is noted in it is in the span at its end."""
    span = Span()
    tracer = _find_tracer()
    if tracer is None:
        yield span
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode

    # The exception is not recorded: a traceback has more in it than anybody may see.
    with tracer.start_as_current_span(
        name,
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as real:
        try:
            yield span
        except BaseException as error:
            span.error = span.error or type(error).__name__
            raise
        finally:
            real.set_attributes(span.attributes)
            if span.error:
                real.set_attribute("error.type", span.error)
                real.set_status(Status(StatusCode.ERROR))


def _find_tracer() -> Tracer | None:
    global _tracer, _looked  # one look per process
    if not _looked:
        _looked = True
        try:
            from opentelemetry.trace import get_tracer
        except ImportError:
            return None
        _tracer = get_tracer("sealos_devbox", __version__)
    return _tracer
