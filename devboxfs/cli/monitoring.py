"""`devboxfs metrics` and `pods`: what a box does and uses."""

from __future__ import annotations

import math
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from devboxfs.cli.group import CODES, commands
from devboxfs.cli.output import json_of, json_option, table, tell_json
from devboxfs.cli.service import ServiceChoice, box_argument, opened, service_options
from devboxfs.cli.terminal import complain
from devboxfs.config import ExitCode, MountError

if TYPE_CHECKING:
    from sealos_devbox import Box, Metrics

__all__ = ["metrics", "pods"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?")
_SECONDS = {"s": 1, None: 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_POINTS = 90
"""How many samples are asked for when no step is given: about what a plot can show."""
_LEAST_STEP = 1


class Duration(click.ParamType[float]):
    """A time such as `90s`, `15m`, `3h` or `2d`, in seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        if isinstance(value, int | float):
            return float(value)
        match = _DURATION.fullmatch(str(value).strip())
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value!r} is no time; write for example 90s, 15m, 3h or 2d.", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


class Moment(click.ParamType[datetime]):
    """A point in time: `2026-01-31T14:00`, with or without a time zone, or a date."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Read it; without a time zone it is this machine's."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(str(value)).astimezone(UTC)
        except ValueError:
            self.fail(f"{value!r} is no time; write for example 2026-01-31T14:00.", param, ctx)


@commands.command(epilog=CODES)
@box_argument
@service_options
@click.option("--since", type=Duration(), help="How far back: 15m, 3h, 2d.  [default: 3h]")
@click.option("--start", type=Moment(), help="The beginning, as 2026-01-31T14:00.")
@click.option("--end", type=Moment(), help="The end.  [default: now]")
@click.option("--step", type=Duration(), help="Between two samples; by default as plotted.")
@click.option("--table", "as_table", is_flag=True, help="List the samples instead of a plot.")
@click.option("--watch", is_flag=True, help="Look again and again, until interrupted.")
@click.option(
    "--interval",
    type=Duration(),
    default=5.0,
    show_default="5s",
    help="Between two looks of --watch.",
)
@click.option(
    "--allow-shared",
    is_flag=True,
    help="Take figures that the service averages with those of other boxes.",
)
@json_option
def metrics(
    box: str,
    service: ServiceChoice,
    since: float | None,
    start: datetime | None,
    end: datetime | None,
    step: float | None,
    as_table: bool,
    watch: bool,
    interval: float,
    allow_shared: bool,
    as_json: bool,
) -> None:
    """Plot what BOX used of its CPU and memory over a time, in percent of its limits.

    With --json, one object; with --json and --watch, one in each line.
    """
    if since is not None and start is not None:
        raise click.UsageError("--since and --start exclude each other.")
    if watch and end is not None:
        raise click.UsageError("--watch and --end exclude each other.")
    if as_table and as_json:
        raise click.UsageError("--table and --json exclude each other.")
    if start is not None and start >= (end or datetime.now(UTC)):
        raise click.UsageError("The start must be earlier than the end.")
    with opened(service) as devbox:
        one = devbox.get(box)
        while True:
            last = end or datetime.now(UTC)
            first = start or last - timedelta(seconds=3 * 3600 if since is None else since)
            found = _measured(one, first, last, step, allow_shared=allow_shared)
            _show(box, found, as_json=as_json, as_table=as_table, watch=watch)
            if not watch:
                break
            time.sleep(interval)


@commands.command(epilog=CODES)
@box_argument
@service_options
@json_option
def pods(box: str, service: ServiceChoice, as_json: bool) -> None:
    """List the pods of BOX: one when it runs, none when it is stopped."""
    with opened(service) as devbox:
        found = devbox.get(box).pods()
    if as_json:
        tell_json(found)
        return
    rows = [(one.name, one.state, one.ip, one.node, one.restarts) for one in found]
    table(("name", "state", "ip", "node", "restarts"), rows, empty=f"{box} has no pod.")


def _measured(
    box: Box, first: datetime, last: datetime, step: float | None, *, allow_shared: bool
) -> Metrics:
    from sealos_devbox import MetricsUnreliableError

    width = (last - first).total_seconds()
    try:
        return box.metrics(
            first,
            last,
            step or max(math.ceil(width / _POINTS), _LEAST_STEP),
            allow_shared=allow_shared,
        )
    except MetricsUnreliableError as error:
        raise MountError(
            f"{error} --allow-shared shows the average.", ExitCode.UNSUPPORTED
        ) from None


def _show(name: str, found: Metrics, *, as_json: bool, as_table: bool, watch: bool) -> None:
    if as_json and watch:
        import json

        click.echo(json.dumps(json_of(found)))
        sys.stdout.flush()
        return
    if as_json:
        tell_json(found)
        return
    if found.shared_with:
        complain(f"averaged with {', '.join(found.shared_with)}")
    if as_table:
        rows = [
            (json_of(one.time), f"{one.cpu_percent:.2f}", f"{one.memory_percent:.2f}")
            for one in found.samples
        ]
        table(("time", "cpu %", "memory %"), rows, empty="There are no samples of that time.")
        return
    from devboxfs.cli.plotting import plot

    if watch and sys.stdout.isatty():
        click.clear()
    click.echo(plot(name, found, colour=sys.stdout.isatty()))
