"""`devboxfs release`: images made of a box, and applications that run them."""

from __future__ import annotations

import sys

import click

from devboxfs.cli.group import CODES, commands
from devboxfs.cli.output import ago, json_option, table, tell_json, waiting
from devboxfs.cli.service import ServiceChoice, box_argument, opened, service_options
from devboxfs.cli.terminal import tell
from devboxfs.config import ExitCode, MountError

__all__ = ["release"]

_tag = click.argument("tag")


@commands.group(epilog=CODES)
def release() -> None:
    """Make images of a box, and run them as applications."""


@release.command("list", epilog=CODES)
@box_argument
@service_options
@json_option
def list_releases(box: str, service: ServiceChoice, as_json: bool) -> None:
    """List the releases of BOX, the newest first."""
    with opened(service) as devbox:
        found = devbox.get(box).releases.list()
    if as_json:
        tell_json(found)
        return
    rows = [(one.tag, one.state, ago(one.created_at), one.image, one.description) for one in found]
    table(
        ("tag", "state", "age", "image", "description"),
        rows,
        empty=f"There is no release of {box}.",
    )


@release.command(epilog=CODES)
@box_argument
@_tag
@service_options
@click.option("--description", "-m", default="", metavar="TEXT", help="What it is.")
@click.option(
    "--stop-box",
    is_flag=True,
    help="Stop the box for it now, wait, and start it again; else it is made on the next stop.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=1200.0,
    show_default=True,
    metavar="SECONDS",
    help="How long that may take.",
)
@json_option
def create(
    box: str,
    tag: str,
    service: ServiceChoice,
    description: str,
    stop_box: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Make the release TAG of what is in BOX."""
    with opened(service) as devbox, waiting(f"making the release {tag} of {box}"):
        made = devbox.get(box).releases.create(tag, description, stop_box=stop_box, timeout=timeout)
    if as_json:
        tell_json(made)
    elif made.state == "pending":
        tell(f"The release {tag} of {box} is pending: it is made when the box is stopped.")
    else:
        tell(f"The release {tag} of {box}: {made.state}.")
    if made.state == "failed":
        raise MountError(f"The service could not make the release {tag}.", ExitCode.FAILED)


@release.command(epilog=CODES)
@box_argument
@_tag
@service_options
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="How long it may take.",
)
def wait(box: str, tag: str, service: ServiceChoice, timeout: float) -> None:
    """Wait until the release TAG of BOX is no longer pending."""
    with opened(service) as devbox, waiting(f"waiting for the release {tag} of {box}"):
        found = devbox.get(box).releases.wait(tag, timeout=timeout)
    tell(f"The release {tag} of {box}: {found.state}.")
    if found.state == "failed":
        raise MountError(f"The service could not make the release {tag}.", ExitCode.FAILED)


@release.command(epilog=CODES)
@box_argument
@_tag
@service_options
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(box: str, tag: str, service: ServiceChoice, yes: bool) -> None:
    """Remove the release TAG of BOX."""
    if not yes:
        if not sys.stdin.isatty():
            raise MountError("Deleting without a terminal to ask at needs --yes.", ExitCode.USAGE)
        click.confirm(f"Delete the release {tag} of {box}?", abort=True, err=True)
    with opened(service) as devbox:
        devbox.get(box).releases.delete(tag)
    tell(f"The release {tag} of {box} is deleted.")


@release.command(epilog=CODES)
@box_argument
@_tag
@service_options
@json_option
def deploy(box: str, tag: str, service: ServiceChoice, as_json: bool) -> None:
    """Run the release TAG of BOX as an application, with 2 cores and 2 GiB."""
    with opened(service) as devbox, waiting(f"deploying the release {tag} of {box}"):
        made = devbox.get(box).releases.deploy(tag)
    if as_json:
        tell_json(made)
        return
    where = "".join(f" https://{domain}" for domain in made.domains)
    tell(f"The application {made.name} runs the release {tag} of {box}.{where}")


@release.command(epilog=CODES)
@box_argument
@service_options
@json_option
def deployments(box: str, service: ServiceChoice, as_json: bool) -> None:
    """List the applications that run releases of BOX."""
    with opened(service) as devbox:
        found = devbox.get(box).releases.deployments()
    if as_json:
        tell_json(found)
        return
    rows = [(one.name, one.kind, one.tag, ", ".join(one.domains)) for one in found]
    table(("name", "kind", "release", "domains"), rows, empty=f"No application runs {box}.")
