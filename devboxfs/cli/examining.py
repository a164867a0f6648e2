"""`devboxfs doctor`: what stands between this machine and a box, and what to do about it."""

from __future__ import annotations

import json

import click

from devboxfs.cli.group import CODES, commands
from devboxfs.cli.output import json_option
from devboxfs.cli.service import (
    ServiceChoice,
    complete_boxes,
    failures,
    service_options,
)
from devboxfs.cli.terminal import tell

__all__ = ["doctor"]

_STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}


@commands.command(epilog=CODES)
@click.argument("box", required=False, shell_complete=complete_boxes)
@click.option("--transport", metavar="RUNG", help="A way that is to be tried besides the usual.")
@service_options
@json_option
def doctor(
    box: str | None, transport: str | None, service: ServiceChoice, *, as_json: bool
) -> None:
    """Look at this machine, at the service, and at every way to BOX.

    Each way is opened and measured, for which a file of 1 MiB is written into the box and removed.
    Ends with 0 when the box can be mounted and written to, else with the code of the first thing
    that is in the way.
    """
    import trio

    from devboxfs import doctor as doctoring

    def show(check: doctoring.Check) -> None:
        if as_json:
            return
        state = click.style(f"{check.state:<8}", fg=_STYLES[check.state])
        click.echo(state, nl=False)
        tell(f"{check.name}: {check.text}")
        if check.advice:
            tell(f"        {check.advice}")

    with failures():
        config = service.config(transport=transport)
        found = trio.run(doctoring.examine, config, box, show)
        if as_json:
            click.echo(json.dumps(found.to_json(), indent=2))
        if found.failure is not None:
            raise found.failure
