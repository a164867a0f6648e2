"""What a box used, from the routes that say it.

The service measures in percent of the limit. v1 multiplies that by 100 once more, as the older
lineage's route does; v2alpha does not. And it does not measure one box: it cuts the last part from
the name (``my-box`` becomes ``my``) and averages all pods whose names begin with what is left. So a
figure is this box's own only where no other box's name begins so.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from sealos_devbox.errors import ProtocolError
from sealos_devbox.models import MetricSample

__all__ = ["merged_series", "samples", "shared_with", "step_text"]


def shared_with(name: str, others: Iterable[str]) -> tuple[str, ...]:
    """Return the other boxes that the service averages into this one's figures."""
    prefix = name.rpartition("-")[0] or name
    return tuple(sorted(other for other in others if other != name and other.startswith(prefix)))


def step_text(step: float) -> str:
    """Return seconds as a Prometheus duration."""
    return f"{round(step * 1000)}ms" if step < 1 or step % 1 else f"{round(step)}s"


def samples(value: object, *, factor: float) -> list[MetricSample]:
    """Return what a monitor route answered, oldest first; `factor` makes percent of its figures."""
    if not isinstance(value, list):
        raise ProtocolError("The control plane sent no list of samples.", hop="control-plane")
    found = []
    for one in value:
        if isinstance(one, dict) and isinstance(one.get("timestamp"), int | float):
            time = datetime.fromtimestamp(one["timestamp"], UTC)
            found.append(
                MetricSample(
                    time, _percent(one.get("cpu"), factor), _percent(one.get("memory"), factor)
                )
            )
    return sorted(found, key=lambda sample: sample.time)


def merged_series(cpu: object, memory: object, *, factor: float) -> list[MetricSample]:
    """Return the samples of the older lineage's two answers, at the times that both have."""
    figures = [_series(answer) for answer in (cpu, memory)]
    return [
        MetricSample(
            datetime.fromtimestamp(time, UTC), figures[0][time] * factor, figures[1][time] * factor
        )
        for time in sorted(figures[0].keys() & figures[1].keys())
    ]


def _series(answer: object) -> dict[float, float]:
    if not isinstance(answer, list):
        raise ProtocolError("The control plane sent no series.", hop="control-plane")
    if not answer or not isinstance(answer[0], dict):
        return {}
    times, values = answer[0].get("xData") or [], answer[0].get("yData") or []
    return {float(time): float(value) for time, value in zip(times, values, strict=False)}


def _percent(value: object, factor: float) -> float:
    if not isinstance(value, int | float | str):
        return 0.0
    try:
        return float(value) * factor
    except ValueError:
        return 0.0
