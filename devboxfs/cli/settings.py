"""`devboxfs ports`, `env` and `autostart`: how a box is set up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devboxfs.cli.boxes import parse_port, parse_variables, secrets_option
from devboxfs.cli.group import CODES, commands
from devboxfs.cli.output import json_option, shown_value, table, tell_json, waiting
from devboxfs.cli.service import ServiceChoice, box_argument, opened, service_options
from devboxfs.cli.terminal import tell
from devboxfs.config import ExitCode, MountError

if TYPE_CHECKING:
    from sealos_devbox import Port

__all__ = ["autostart", "env", "ports"]

_number = click.argument("number", type=click.IntRange(1, 65535))


@commands.group(epilog=CODES)
def ports() -> None:
    """List, open and close the ports of a box that the service forwards."""


@ports.command("list", epilog=CODES)
@box_argument
@service_options
@json_option
def list_ports(box: str, service: ServiceChoice, as_json: bool) -> None:
    """List the ports of BOX, and where they can be reached."""
    with opened(service) as devbox:
        found = devbox.get(box).ports()
    if as_json:
        tell_json(found)
        return
    rows = [_row(port) for port in found]
    table(("port", "protocol", "public", "private"), rows, empty=f"{box} has no port open.")


@ports.command("open", epilog=CODES)
@box_argument
@click.argument("port")
@service_options
@click.option("--domain", metavar="NAME", help="A domain of yours that leads to it.")
@json_option
def open_port(
    box: str, port: str, service: ServiceChoice, domain: str | None, as_json: bool
) -> None:
    """Forward PORT of BOX, written 8000, 50051/grpc or 8000:private.

    One that is not private can be reached by everybody on the internet.
    """
    wanted = parse_port(port)
    with opened(service) as devbox, waiting(f"opening port {wanted.number} of {box}"):
        opened_port = devbox.get(box).open_port(
            wanted.number, protocol=wanted.protocol, public=wanted.public, custom_domain=domain
        )
    if as_json:
        tell_json(opened_port)
        return
    where = opened_port.public_url or opened_port.private_url
    tell(f"Port {wanted.number} of {box} is open{f': {where}' if where else ''}.")


@ports.command("close", epilog=CODES)
@box_argument
@_number
@service_options
def close_port(box: str, number: int, service: ServiceChoice) -> None:
    """Forward port NUMBER of BOX no longer."""
    with opened(service) as devbox, waiting(f"closing port {number} of {box}"):
        one = devbox.get(box)
        there = [port.number for port in one.ports()]
        if number not in there:
            listed = ", ".join(map(str, there)) or "none"
            raise MountError(
                f"Port {number} of {box} is not open; open are: {listed}.", ExitCode.NOT_FOUND
            )
        one.close_port(number)
    tell(f"Port {number} of {box} is closed.")


@commands.group(epilog=CODES)
def env() -> None:
    """List and change the variables that a box was given.

    They are changed on the box's object in the cluster, for which the credential has to be a
    kubeconfig with that right. Programs that run go on with what they were started with.
    """


@env.command("list", epilog=CODES)
@box_argument
@service_options
@secrets_option
@json_option
def list_env(box: str, service: ServiceChoice, show_secrets: bool, as_json: bool) -> None:
    """List the variables of BOX; values of those that are named like credentials are hidden."""
    with opened(service) as devbox:
        found = devbox.get(box).env()
    if as_json:
        tell_json(found, secrets=show_secrets)
        return
    rows = [(one.name, shown_value(one, secrets=show_secrets)) for one in found]
    table(("name", "value"), rows, empty=f"{box} was given no variable.")


@env.command("set", epilog=CODES)
@box_argument
@click.argument("variables", nargs=-1, metavar="[NAME=VALUE]...")
@service_options
@click.option(
    "--from-file",
    type=click.File(encoding="utf-8"),
    help="Lines of NAME=VALUE, which no other process sees as it does arguments; - for the input.",
)
def set_env(
    box: str, variables: tuple[str, ...], service: ServiceChoice, from_file: click.File | None
) -> None:
    """Give BOX variables, beside those that it has."""
    from sealos_devbox import EnvVar

    lines = _lines(from_file)
    wanted = parse_variables([*lines, *variables])
    if not wanted:
        raise click.UsageError("Name at least one variable: NAME=VALUE.")
    with opened(service) as devbox, waiting(f"changing the variables of {box}"):
        one = devbox.get(box)
        kept = [variable for variable in one.env() if variable.name not in wanted]
        one.update(env=[*kept, *(EnvVar(name, value) for name, value in wanted.items())])
    tell(f"{box} has {', '.join(wanted)}.")


@env.command("unset", epilog=CODES)
@box_argument
@click.argument("names", nargs=-1, required=True)
@service_options
def unset_env(box: str, names: tuple[str, ...], service: ServiceChoice) -> None:
    """Take variables away from BOX."""
    with opened(service) as devbox, waiting(f"changing the variables of {box}"):
        one = devbox.get(box)
        there = one.env()
        missing = set(names) - {variable.name for variable in there}
        if missing:
            raise MountError(
                f"{box} was not given: {', '.join(sorted(missing))}.", ExitCode.NOT_FOUND
            )
        one.update(env=[variable for variable in there if variable.name not in names])
    tell(f"{box} no longer has {', '.join(dict.fromkeys(names))}.")


@commands.command(epilog=CODES)
@box_argument
@click.argument("command", required=False)
@service_options
def autostart(box: str, command: str | None, service: ServiceChoice) -> None:
    """Have COMMAND run in BOX, by default what its template runs for a release.

    The service starts it once the box runs. What it prints is kept nowhere.
    """
    with opened(service) as devbox, waiting(f"setting the autostart of {box}"):
        devbox.get(box).autostart(command)
    tell(f"{box} runs {command or 'the release command of its template'}.")


def _row(port: Port) -> tuple[object, ...]:
    return port.number, port.protocol, port.public_url, port.private_url


def _lines(file: object) -> list[str]:
    if file is None:
        return []
    lines = [line.strip() for line in file]  # type: ignore[attr-defined]
    return [line for line in lines if line and not line.startswith("#")]
