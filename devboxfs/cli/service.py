"""Which service a command speaks to, and what its refusals come to.

Every command about boxes takes the same options, `service_options`, and works in the block of
`opened`, which says on standard error which service was taken.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from devboxfs.cli.terminal import complain
from devboxfs.config import ExitCode, MountError

if TYPE_CHECKING:
    from sealos_devbox import Devbox, DevboxConfig, DevboxError, Timeouts

__all__ = [
    "ServiceChoice",
    "box_argument",
    "complete_boxes",
    "complete_profiles",
    "failures",
    "opened",
    "service_options",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ServiceChoice:
    """What the options of a command say of the service; None and False leave it to the rule."""

    profile: str | None = None
    endpoint: str | None = None
    kubeconfig: str | None = None
    embedded: bool = False
    debug: bool = False

    def config(
        self, *, transport: str | None = None, timeouts: Timeouts | None = None
    ) -> DevboxConfig:
        """Return it as the SDK takes it."""
        from sealos_devbox import DevboxConfig

        return DevboxConfig(
            api_url=self.endpoint,
            kubeconfig=self.kubeconfig,
            profile=self.profile,
            embedded=True if self.embedded else None,
            transport=transport,
            timeouts=timeouts,
        )


def service_options(command: _Command) -> _Command:
    """Give a command the options that choose a service; it takes them as `service`."""

    @functools.wraps(command)
    def with_choice(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - any command's
        choice = ServiceChoice(
            **{name: options.pop(name) for name in ServiceChoice.__dataclass_fields__}
        )
        return command(*arguments, service=choice, **options)

    found: Any = with_choice
    for option in reversed(
        (
            click.option(
                "--profile",
                metavar="NAME",
                shell_complete=complete_profiles,
                help="A profile that `devboxfs login` wrote.",
            ),
            click.option("--endpoint", metavar="URL", help="The address of the control plane."),
            click.option("--kubeconfig", metavar="PATH", help="The credential."),
            click.option("--embedded", is_flag=True, help="Use the embedded engine."),
            click.option("--debug", is_flag=True, help="Log every request to standard error."),
        )
    ):
        found = option(found)
    return found  # type: ignore[no-any-return]


def box_argument(command: _Command) -> _Command:
    """Give a command the name of a box, which shells complete."""
    return click.argument("box", shell_complete=complete_boxes)(command)


@contextmanager
def opened(service: ServiceChoice, *, transport: str | None = None) -> Iterator[Devbox]:
    """Open the client, say which service it is, and end as MountError whatever goes wrong."""
    from sealos_devbox import Devbox

    with (
        failures(),
        _logging(debug=service.debug),
        Devbox(service.config(transport=transport)) as devbox,
    ):
        complain(f"using {devbox.service}, {devbox.reason}")
        yield devbox


@contextmanager
def failures() -> Iterator[None]:
    """Turn what the SDK raises into a text and an exit code."""
    from sealos_devbox import DevboxError

    try:
        yield
    except DevboxError as error:
        raise MountError(_text_of(error), _exit_code_of(error)) from None
    except ValueError as error:
        text = str(error)
        raise MountError(f"{text[:1].upper()}{text[1:]}.", ExitCode.USAGE) from None


def _text_of(error: DevboxError) -> str:
    parts = [str(error)]
    if error.hint:
        parts.append(error.hint)
    if error.request_id:
        parts.append(f"[request {error.request_id}]")
    return " ".join(parts)


def _exit_code_of(error: DevboxError) -> ExitCode:
    import sealos_devbox as sdk

    for kinds, code in (
        (sdk.BoxNotFoundError, ExitCode.NO_BOX),
        ((sdk.BoxExistsError, sdk.AlreadyExistsError), ExitCode.EXISTS),
        (sdk.BoxStateError, ExitCode.STATE),
        ((sdk.AuthenticationError, sdk.AccessDeniedError), ExitCode.DENIED),
        (
            (sdk.PaymentRequiredError, sdk.QuotaExceededError, sdk.RateLimitedError),
            ExitCode.QUOTA,
        ),
        (sdk.InvalidRequestError, ExitCode.USAGE),
        (sdk.NotFoundError, ExitCode.NOT_FOUND),
        (sdk.DeadlineExceededError, ExitCode.NO_ANSWER),
        ((sdk.TransportError, sdk.ServerError, sdk.ProtocolError), ExitCode.UNAVAILABLE),
        (sdk.CapabilityError, ExitCode.UNSUPPORTED),
        (sdk.ConfigurationError, ExitCode.NO_SERVICE),
    ):
        if isinstance(error, kinds):
            return code
    return ExitCode.FAILED


@contextmanager
def _logging(*, debug: bool) -> Iterator[None]:
    """Show what the SDK warns of, as of a template that is not exactly what was asked for."""
    handler = _Lines()
    logger = logging.getLogger("sealos_devbox")
    before, propagated = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagated


class _Lines(logging.Handler):
    """Log records as lines of this command."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        complain(record.getMessage())


# -- for shells ------------------------------------------------------------------------------------


def complete_boxes(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return names of boxes; a service that fails, or takes long, comes to none.

    There is no place to say so: the user is typing.
    """
    from sealos_devbox import Devbox, DevboxError, Timeouts

    try:
        given = {
            name: context.params[name]
            for name in ("profile", "endpoint", "kubeconfig", "embedded")
            if context.params.get(name)
        }
        choice = ServiceChoice(**given)
        with Devbox(choice.config(timeouts=Timeouts(1.0, 2.0, 2.0, 2.0))) as devbox:
            return [box.name for box in devbox.list() if box.name.startswith(incomplete)]
    except (DevboxError, OSError, ValueError):
        return []


def complete_profiles(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Return names of profiles; a file that cannot be read has none."""
    from sealos_devbox import DevboxError, config_file, read_profiles

    try:
        names = read_profiles(config_file()).profiles
    except (DevboxError, OSError, ValueError):
        return []
    return [name for name in names if name.startswith(incomplete)]
