"""A plot of what a box used, as text."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sealos_devbox import Metrics, MetricSample

__all__ = ["plot"]

_ROWS = 16
_COLUMNS = 60
"""Of the smallest plot that says anything."""
_TICKS = 5


def plot(name: str, metrics: Metrics, *, colour: bool) -> str:
    """Return lines for CPU and memory over the time that was asked for, and a summary of each."""
    title = f"{name}, {_span(metrics.start, metrics.end)}"
    if not metrics.samples:
        return f"{title}: there are no samples."
    import plotext  # type: ignore[import-untyped]

    size = shutil.get_terminal_size((80, 24))
    plotext.clear_figure()
    plotext.plotsize(max(size.columns, _COLUMNS), max(min(size.lines - 6, 2 * _ROWS), _ROWS))
    plotext.title(f"{title}, percent of the limits")
    _lines(plotext, metrics)
    if not colour:
        plotext.clear_color()
    drawn = str(plotext.build())
    plotext.clear_figure()
    values = {
        "cpu": [sample.cpu_percent for sample in metrics.samples],
        "memory": [sample.memory_percent for sample in metrics.samples],
    }
    return "\n".join([drawn, *(_summary(*one) for one in values.items())])


def _lines(plotext: Any, metrics: Metrics) -> None:  # noqa: ANN401 - the module has no types
    first, last = metrics.start.timestamp(), metrics.end.timestamp()
    for label, marker, value in (
        ("cpu", "●", _cpu),
        ("memory", "▪", _memory),
    ):
        for number, part in enumerate(_unbroken(metrics)):
            plotext.plot(
                [sample.time.timestamp() for sample in part],
                [value(sample) for sample in part],
                label=label if number == 0 else None,
                marker=marker,
            )
    plotext.xlim(first, last)
    top = max(max(_cpu(one), _memory(one)) for one in metrics.samples)
    plotext.ylim(0, _ceiling(top))
    ticks = [first + (last - first) * at / (_TICKS - 1) for at in range(_TICKS)]
    shown = (
        "%d %b %H:%M" if last - first > 86_400 else "%H:%M" if last - first > 600 else "%H:%M:%S"
    )
    plotext.xticks(ticks, [datetime.fromtimestamp(at).astimezone().strftime(shown) for at in ticks])


def _unbroken(metrics: Metrics) -> list[list[MetricSample]]:
    """Return runs of samples: over a gap, as when the box was stopped, no line is drawn."""
    longest = timedelta(seconds=max(3 * metrics.step, 60.0))
    runs: list[list[MetricSample]] = []
    for sample in metrics.samples:
        if runs and sample.time - runs[-1][-1].time <= longest:
            runs[-1].append(sample)
        else:
            runs.append([sample])
    return runs


def _ceiling(top: float) -> float:
    """Return the end of the axis: near the largest figure, so that small ones can be seen."""
    return next((step for step in (1, 2, 5, 10, 20, 50, 100) if top <= step), top * 1.05)


def _cpu(sample: MetricSample) -> float:
    return sample.cpu_percent


def _memory(sample: MetricSample) -> float:
    return sample.memory_percent


def _summary(what: str, values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    return (
        f"{what:<7} now {values[-1]:6.2f} %   mean {mean:6.2f} %   "
        f"least {min(values):6.2f} %   most {max(values):6.2f} %   {len(values)} samples"
    )


def _span(start: datetime, end: datetime) -> str:
    first, last = start.astimezone(), end.astimezone()
    same_day = first.date() == last.date()
    return f"{first:%Y-%m-%d %H:%M} to {last:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}}"
