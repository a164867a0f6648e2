"""`devboxfs box`: boxes, from making one to deleting it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from devboxfs.cli.group import CODES, commands
from devboxfs.cli.output import (
    ago,
    amount,
    json_of,
    json_option,
    shown_value,
    table,
    tell_json,
    waiting,
)
from devboxfs.cli.service import (
    ServiceChoice,
    box_argument,
    complete_boxes,
    failures,
    opened,
    service_options,
)
from devboxfs.cli.terminal import complain, tell
from devboxfs.config import ExitCode, MountError

if TYPE_CHECKING:
    from sealos_devbox import Box, BoxInfo, Devbox, Port, PortRequest

__all__ = ["box", "parse_port", "parse_variables", "secrets_option"]

_POLL = 1.0

_names = click.argument("boxes", nargs=-1, required=True, shell_complete=complete_boxes)
_no_wait = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return when it is done."
)
secrets_option = click.option(
    "--show-secrets", is_flag=True, help="Show credentials and values that look like some."
)


def _timeout(default: float) -> Callable[[Any], Any]:
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0.1),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help="How long it may take.",
    )


@commands.group(epilog=CODES)
def box() -> None:
    """Make boxes, start and stop them, look at them."""


@box.command("list", epilog=CODES)
@service_options
@click.option("--quiet", "-q", is_flag=True, help="Names only.")
@json_option
def list_boxes(service: ServiceChoice, quiet: bool, as_json: bool) -> None:
    """List the boxes."""
    with opened(service) as devbox:
        found = devbox.list()
        if quiet:
            for one in found:
                tell(one.name)
            return
        infos = [one.info or one.refresh() for one in found]
    if as_json:
        tell_json(infos)
        return
    rows = [
        (
            info.name,
            info.state,
            info.runtime,
            f"{info.resources.cpu:g}",
            amount(info.resources.memory),
        )
        for info in infos
    ]
    table(
        ("name", "state", "runtime", "cpu", "memory"),
        rows,
        empty="There is no box; make one with: devboxfs box create",
    )


@box.command(epilog=CODES)
@click.argument("name", required=False)
@service_options
@click.option("--runtime", metavar="NAME", help="The template: python, python:3.11, ...; nearest.")
@click.option("--template", metavar="NAME", help="The template by its own name, nothing near it.")
@click.option("--language", metavar="NAME", help="Where no runtime is given, or there is none.")
@click.option("--cpu", metavar="CORES", help="1, 0.5, 500m, ...")
@click.option("--memory", metavar="SIZE", help="2Gi, 512Mi, ...")
@click.option("--storage", metavar="SIZE", help="10Gi, ...; where the credential allows it.")
@click.option(
    "--port",
    "ports",
    multiple=True,
    metavar="NUMBER[/PROTOCOL][:private]",
    help="A port to forward, as 8000, 50051/grpc or 8000:private; several times for several.",
)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable; as often as needed.")
@click.option("--autostart", is_flag=True, help="Run what the template runs for a release.")
@click.option("--exist-ok", is_flag=True, help="Take a box of that name that is there as it is.")
@_no_wait
@_timeout(300.0)
@json_option
def create(
    name: str | None,
    service: ServiceChoice,
    ports: tuple[str, ...],
    env: tuple[str, ...],
    *,
    exist_ok: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - Devbox.create declares and checks them
) -> None:
    """Make a box, by default with 1 core and 2 GiB; without NAME, the name is made up."""
    if exist_ok and name is None:
        raise click.UsageError("--exist-ok needs the name of a box.")
    options["ports"] = [parse_port(port) for port in ports]
    options["env"] = parse_variables(env)
    with opened(service) as devbox:
        with waiting(f"making {name or 'a box'}"):
            made = (
                devbox.get_or_create(name, **options)
                if exist_ok and name is not None
                else devbox.create(name, **options)
            )
            info = made.info or made.refresh()
        for note in made.notes:
            complain(note)
        if as_json:
            tell_json(info)
        else:
            tell(f"{info.name} is {_ready(info, wait=options['wait'])}.")


@box.command(epilog=CODES)
@box_argument
@service_options
@secrets_option
@json_option
def show(box: str, service: ServiceChoice, show_secrets: bool, as_json: bool) -> None:
    """Show what the service knows of BOX."""
    with opened(service) as devbox:
        info = devbox.get(box).refresh()
    if as_json:
        tell_json(info, secrets=show_secrets)
        return
    for name, value in _facts(info, secrets=show_secrets):
        tell(f"{f'{name}:' if name else '':<12}{value}")


@box.command(epilog=CODES)
@_names
@service_options
@_no_wait
@_timeout(300.0)
def start(boxes: Sequence[str], service: ServiceChoice, wait: bool, timeout: float) -> None:
    """Have BOXES run."""
    _each(boxes, service, "starting", lambda one: one.start(wait=wait, timeout=timeout))


@box.command(epilog=CODES)
@_names
@service_options
@_no_wait
@_timeout(600.0)
def pause(boxes: Sequence[str], service: ServiceChoice, wait: bool, timeout: float) -> None:
    """Stop BOXES: files stay, processes are killed; their limits are no longer charged."""
    _each(boxes, service, "pausing", lambda one: one.pause(wait=wait, timeout=timeout))


@box.command(epilog=CODES)
@_names
@service_options
@_timeout(900.0)
def restart(boxes: Sequence[str], service: ServiceChoice, timeout: float) -> None:
    """Stop BOXES, wait until their files are kept, and have them run again."""
    _each(boxes, service, "restarting", lambda one: one.restart(timeout=timeout))


@box.command(epilog=CODES)
@_names
@service_options
@_no_wait
@_timeout(600.0)
def shutdown(boxes: Sequence[str], service: ServiceChoice, wait: bool, timeout: float) -> None:
    """Stop BOXES as pause does, and give their network addresses up."""
    _each(boxes, service, "shutting down", lambda one: one.shutdown(wait=wait, timeout=timeout))


@box.command(epilog=CODES)
@_names
@service_options
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_no_wait
@_timeout(120.0)
def delete(
    boxes: Sequence[str], service: ServiceChoice, yes: bool, wait: bool, timeout: float
) -> None:
    """Remove BOXES with all that is in them."""
    if not yes:
        if not sys.stdin.isatty():
            raise MountError("Deleting without a terminal to ask at needs --yes.", ExitCode.USAGE)
        question = f"Delete {', '.join(boxes)} with all that is in there?"
        click.confirm(question, abort=True, err=True)

    def remove(one: Box) -> None:
        one.delete(wait=wait, timeout=timeout)

    _each(boxes, service, "deleting", remove, done="is deleted" if wait else "is being deleted")


@box.command(epilog=CODES)
@box_argument
@service_options
@click.option(
    "--for",
    "goal",
    type=click.Choice(["ready", "running", "stopped", "deleted"]),
    default="ready",
    show_default=True,
    help="What to wait for; ready: it runs, and something in it answers.",
)
@_timeout(300.0)
def wait(box: str, service: ServiceChoice, goal: str, timeout: float) -> None:
    """Wait until BOX is ready."""
    with opened(service) as devbox, waiting(f"waiting for {box}"):
        if goal == "ready":
            devbox.get(box).wait_until_ready(timeout=timeout)
        else:
            _wait_for(devbox, box, goal, timeout)
    tell(f"{box} is {goal}.")


@box.command(epilog=CODES)
@box_argument
@service_options
@click.option("--cpu", metavar="CORES", help="1, 0.5, 500m, ...")
@click.option("--memory", metavar="SIZE", help="2Gi, 512Mi, ...")
@click.option("--storage", metavar="SIZE", help="10Gi, ...; where the credential allows it.")
@json_option
def update(
    box: str,
    service: ServiceChoice,
    cpu: str | None,
    memory: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Change the limits of BOX; the service may restart it for that."""
    if cpu is None and memory is None and storage is None:
        raise click.UsageError("Say what is to change: --cpu, --memory or --storage.")
    with opened(service) as devbox, waiting(f"changing {box}"):
        info = devbox.get(box).update(cpu=cpu, memory=memory, storage=storage)
    if as_json:
        tell_json(info)
    else:
        tell(f"{box} has {_limits(info)}.")


@box.command(epilog=CODES)
@box_argument
@service_options
@json_option
def health(box: str, service: ServiceChoice, as_json: bool) -> int:
    """Say whether BOX can be used now; exit code 14 if not."""
    with opened(service) as devbox:
        found = devbox.get(box).health()
    if as_json:
        tell_json(found)
    else:
        detail = f" ({found.detail})" if found.detail else ""
        tell(f"{box} is {found.state}, its agent is {found.agent}{detail}.")
    return int(ExitCode.OK if found.ok else ExitCode.STATE)


# -- what several of them need ---------------------------------------------------------------------


def parse_port(text: str) -> PortRequest:
    """Read ``8000``, ``50051/grpc`` or ``8000:private``; raises click.BadParameter."""
    from typing import get_args

    from sealos_devbox import PortProtocol, PortRequest

    rest, _, reach = text.partition(":")
    number, _, protocol = rest.partition("/")
    protocol = protocol or "http"
    if not number.isdecimal() or not 1 <= int(number) <= 65535:
        raise click.BadParameter(f"{text!r} is no port; write 8000, 50051/grpc or 8000:private.")
    if protocol not in get_args(PortProtocol):
        raise click.BadParameter(f"{protocol!r} is no protocol of a port: http, grpc or ws.")
    if reach not in ("", "private", "public"):
        raise click.BadParameter(f"A port is public or private, not {reach!r}.")
    return PortRequest(int(number), protocol, reach != "private")  # type: ignore[arg-type]


def parse_variables(texts: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=VALUE``; raises click.BadParameter, which does not show values."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            # What is there may be a value, which nobody wants to see on the screen.
            raise click.BadParameter("A variable is written NAME=VALUE.")
        found[name] = value
    return found


def _each(
    names: Sequence[str],
    service: ServiceChoice,
    doing: str,
    action: Callable[[Box], None],
    *,
    done: str = "",
) -> None:
    """Do it to every box, whatever became of those before; the first failure is the outcome."""
    first: MountError | None = None
    with opened(service) as devbox:
        for name in dict.fromkeys(names):
            try:
                with failures():
                    with waiting(f"{doing} {name}"):
                        one = devbox.get(name)
                        action(one)
                        text = done or f"is {one.refresh().state}"
                    tell(f"{name} {text}.")
            except MountError as error:
                if len(names) > 1:
                    complain(error.text)
                first = first or error
    if first is None:
        return
    if len(names) > 1:
        raise MountError("Not all of that was done.", first.exit_code)
    raise first


def _wait_for(devbox: Devbox, name: str, goal: str, timeout: float) -> None:
    from sealos_devbox import BoxNotFoundError, BoxState, BoxStateError, DeadlineExceededError

    goals = {
        "running": {BoxState.RUNNING},
        "stopped": {BoxState.STOPPED, BoxState.SHUTDOWN, BoxState.PAUSED},
        "deleted": set(),
    }[goal]
    ends = time.monotonic() + timeout
    while True:
        try:
            state = devbox.get(name).refresh().state
        except BoxNotFoundError:
            if goal == "deleted":
                return
            raise
        if state in goals:
            return
        if state is BoxState.ERROR and goal != "deleted":
            raise BoxStateError(f"The box {name!r} is in state error.", retryable=False)
        if time.monotonic() + _POLL > ends:
            raise DeadlineExceededError(f"{name!r} was {state} after {timeout:g} s, not {goal}.")
        time.sleep(_POLL)


def _ready(info: BoxInfo, *, wait: bool) -> str:
    return "ready" if wait and info.state == "running" else str(info.state)


def _limits(info: BoxInfo) -> str:
    storage = info.resources.storage
    more = f", {amount(storage)} of storage" if storage else ""
    cores = info.resources.cpu
    memory = amount(info.resources.memory)
    return f"{cores:g} {'core' if cores == 1 else 'cores'}, {memory} of memory{more}"


def _facts(info: BoxInfo, *, secrets: bool) -> list[tuple[str, str]]:
    made = info.created_at
    found = [
        ("Name", info.name),
        ("State", str(info.state)),
        ("Runtime", info.runtime),
        ("Image", info.image or ""),
        ("Limits", _limits(info)),
        ("Made", f"{json_of(made)} ({ago(made)} ago)" if made else ""),
        ("SSH", info.ssh.command if info.ssh else ""),
        ("Workspace", info.working_dir or ""),
        ("Agent", info.agent_url or ""),
    ]
    found += [("Port", f"{port.number}/{port.protocol} {_address(port)}") for port in info.ports]
    found += [("Variable", f"{one.name}={shown_value(one, secrets=secrets)}") for one in info.env]
    found += [("Pod", f"{pod.name} ({pod.state})") for pod in info.pods]
    if secrets and info.ssh is not None and info.ssh.private_key is not None:
        found.append(("SSH key", ""))
        found += [("", line) for line in info.ssh.private_key.reveal().splitlines()]
    return [(name, value) for name, value in found if value or name == "SSH key"]


def _address(port: Port) -> str:
    return port.public_url or (f"{port.private_url} (private)" if port.private_url else "")
