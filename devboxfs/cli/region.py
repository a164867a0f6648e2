"""`devboxfs templates` and `runtimes`: what a region makes boxes from."""

from __future__ import annotations

import click

from devboxfs.cli.group import CODES, commands
from devboxfs.cli.output import json_option, table, tell_json
from devboxfs.cli.service import ServiceChoice, opened, service_options

__all__ = ["runtimes", "templates"]


@commands.command(epilog=CODES)
@service_options
@json_option
def templates(service: ServiceChoice, as_json: bool) -> None:
    """List what the region makes boxes from: one template of each runtime."""
    with opened(service) as devbox:
        found = devbox.templates()
    if as_json:
        tell_json(found)
        return
    rows = [
        (one.runtime, one.user, one.working_dir, ", ".join(map(str, one.ports))) for one in found
    ]
    table(("runtime", "user", "workspace", "ports"), rows, empty="The region has no template.")


@commands.command(epilog=CODES)
@service_options
@click.option("--kind", metavar="KIND", help="language, framework, os, service or custom.")
@json_option
def runtimes(service: ServiceChoice, kind: str | None, as_json: bool) -> None:
    """List the runtimes of the templates, with what is known of them."""
    with opened(service) as devbox:
        found = [one for one in devbox.runtimes() if kind is None or one.kind == kind.lower()]
    if as_json:
        tell_json(found)
        return
    rows = [(one.name, one.kind, ", ".join(one.tags), one.description) for one in found]
    table(("runtime", "kind", "tags", "description"), rows, empty="There is none of that kind.")
