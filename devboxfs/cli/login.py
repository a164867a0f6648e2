"""`devboxfs login`, `logout` and `profiles`: which services there are, and how one gets in.

A credential that is a file stays where it is, and the profile names it. One that comes through the
standard input or the terminal is kept beside the profiles, in a file that only its owner can read.
It is never an argument, for other users see those, and it is never shown.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from devboxfs.cli.group import CODES, commands
from devboxfs.cli.output import json_option, table, tell_json, waiting
from devboxfs.cli.service import complete_profiles, failures
from devboxfs.cli.terminal import complain, tell
from devboxfs.config import ExitCode, MountError

if TYPE_CHECKING:
    from sealos_devbox.profiles import ProfileValue

__all__ = ["login", "logout", "profiles"]

_LARGEST = 1 << 20
"""Bytes of a credential; one that fits into a header is far smaller."""
_END_OF_INPUT = b"\x04"
_INTERRUPT = b"\x03"


@dataclass(frozen=True, slots=True)
class _Credential:
    """A credential as the user has it: a file of theirs, or a text."""

    path: Path | None = None
    text: str = ""
    token: bool = False

    def __repr__(self) -> str:
        return "_Credential(...)"

    @property
    def key(self) -> str:
        """What a profile calls it."""
        return "api_key_file" if self.token else "kubeconfig"


@commands.command(epilog=CODES)
@click.option("--profile", default="default", show_default=True, metavar="NAME", help="Its name.")
@click.option(
    "--endpoint",
    metavar="URL",
    help="The address of the control plane; by default that of the kubeconfig's region.",
)
@click.option(
    "--kubeconfig",
    metavar="PATH",
    help="The credential, a file that stays where it is; - for the standard input.",
)
@click.option("--token-file", metavar="PATH", help="A token, for an engine that you run; or -.")
@click.option("--context", metavar="NAME", help="Of the kubeconfig; by default its current one.")
@click.option("--ca-file", metavar="PATH", help="Authorities to trust in place of the usual ones.")
@click.option(
    "--default/--no-default",
    default=None,
    help="Use it where nothing else is said; by default if there is no such profile yet.",
)
def login(
    profile: str,
    endpoint: str | None,
    kubeconfig: str | None,
    token_file: str | None,
    context: str | None,
    ca_file: str | None,
    default: bool | None,
) -> None:
    """Check a credential and remember the service as a profile.

    Without --kubeconfig and --token-file the credential is read from the standard input, at a
    terminal unseen. Nothing is remembered unless the service takes it.
    """
    from sealos_devbox import Devbox, DevboxConfig, config_file, read_profiles
    from sealos_devbox.profiles import write_profile

    if kubeconfig is not None and token_file is not None:
        raise click.UsageError("--kubeconfig and --token-file exclude each other.")
    if not profile or not profile.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise click.UsageError("A profile is named with letters, digits, dots and dashes.")
    credential = _credential(kubeconfig, token_file)
    if credential.token and endpoint is None:
        raise click.UsageError("A token does not say which service it is for: give --endpoint.")
    path = config_file()
    with failures():
        known = read_profiles(path)
        config = DevboxConfig(
            api_url=endpoint,
            api_key=credential.text if credential.path is None or credential.token else None,
            kubeconfig=None if credential.token else credential.path,
            context=context,
            ca_file=ca_file,
        )
        with Devbox(config) as devbox, waiting("checking the credential"):
            count = len(devbox.list())
            service = devbox.service
        if default is None:
            default = known.default is None or known.default == profile
        stored = credential.path or _keep(path.parent, profile, credential)
        values: dict[str, ProfileValue] = {credential.key: str(stored)}
        for key, value in (("endpoint", endpoint), ("context", context)):
            if value:
                values[key] = value
        if ca_file:
            values["ca_file"] = os.path.abspath(ca_file)
        write_profile(path, profile, values, default=default)
    boxes = "1 box" if count == 1 else f"{count} boxes"
    tell(f"{service} takes the credential; there {'is' if count == 1 else 'are'} {boxes}.")
    use = "used where nothing else is said" if default else f"used with --profile {profile}"
    tell(f"Profile {profile} is in {path}, {use}.")


@commands.command(epilog=CODES)
@click.argument("profile", default="default", shell_complete=complete_profiles)
def logout(profile: str) -> None:
    """Forget PROFILE, and the credential that login kept for it."""
    from sealos_devbox import config_file, read_profiles
    from sealos_devbox.profiles import remove_profile

    path = config_file()
    with failures():
        known = read_profiles(path)
        _require(profile, list(known.profiles), path)
        remove_profile(path, profile)
    kept = _kept(path.parent, profile)
    kept.unlink(missing_ok=True)
    tell(f"Profile {profile} is forgotten.")
    named = known.profiles[profile].get("kubeconfig") or known.profiles[profile].get("api_key_file")
    if named and Path(str(named)) != kept:
        tell(f"The credential is still in {named}.")


@commands.group(invoke_without_command=True, epilog=CODES)
@json_option
@click.pass_context
def profiles(context: click.Context, as_json: bool) -> None:
    """List the profiles, or choose the one that is used where nothing else is said."""
    if context.invoked_subcommand is not None:
        return
    from sealos_devbox import config_file, read_profiles

    with failures():
        known = read_profiles(config_file())
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "default": name == known.default,
            "embedded": bool(values.get("embedded")),
            "endpoint": values.get("endpoint"),
            "kubeconfig": values.get("kubeconfig"),
            "context": values.get("context"),
            "api_key_file": values.get("api_key_file"),
        }
        for name, values in sorted(known.profiles.items())
    ]
    if as_json:
        tell_json(found)
        return
    rows = [
        (
            one["name"],
            "*" if one["default"] else "",
            "the embedded engine" if one["embedded"] else one["endpoint"] or "of the kubeconfig",
            one["kubeconfig"] or one["api_key_file"],
        )
        for one in found
    ]
    columns = ("name", "default", "service", "credential")
    table(columns, rows, empty="There is no profile; write one with: devboxfs login")


@profiles.command(epilog=CODES)
@click.argument("profile", shell_complete=complete_profiles)
def use(profile: str) -> None:
    """Have PROFILE used where nothing else is said."""
    from sealos_devbox import config_file, read_profiles
    from sealos_devbox.profiles import set_default_profile

    path = config_file()
    with failures():
        _require(profile, list(read_profiles(path).profiles), path)
        set_default_profile(path, profile)
    tell(f"Profile {profile} is used where nothing else is said.")


# -- credentials -----------------------------------------------------------------------------------


def _credential(kubeconfig: str | None, token_file: str | None) -> _Credential:
    """Return what the user gives; raises MountError when there is nothing, or nothing of use."""
    named = kubeconfig if kubeconfig is not None else token_file
    if named is None or named == "-":
        text = _pasted() if sys.stdin.isatty() else _limited(sys.stdin.buffer.read(_LARGEST + 1))
        token = token_file is not None or (kubeconfig is None and _is_token(text))
        return _Credential(None, text, token)
    path = Path(os.path.abspath(Path(named).expanduser()))
    try:
        with path.open("rb") as file:
            text = _limited(file.read(_LARGEST + 1))
    except OSError as error:
        raise MountError(f"{path} cannot be read: {error.strerror}.", ExitCode.NO_SERVICE) from None
    if path.stat().st_mode & 0o077:
        complain(f"other users can read {path}; chmod 600 keeps them out")
    return _Credential(path, text, token=token_file is not None)


def _limited(raw: bytes) -> str:
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError:
        raise MountError("The credential is no text.", ExitCode.NO_SERVICE) from None
    if not text or len(raw) > _LARGEST:
        what = "is empty" if not text else "is too large to be one"
        raise MountError(f"The credential {what}.", ExitCode.NO_SERVICE)
    return text


def _is_token(text: str) -> bool:
    return "\n" not in text and ":" not in text and "{" not in text


def _pasted() -> str:
    """Read from the terminal what it does not show: the lines of a kubeconfig, or a token."""
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    silent = termios.tcgetattr(descriptor)
    # Line by line the kernel cuts lines of 4096 bytes, and certificates are longer: byte by byte.
    silent[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
    silent[6][termios.VMIN], silent[6][termios.VTIME] = 1, 0
    got = bytearray()
    whole = False
    try:
        # Before the prompt: what comes from then on is kept, and none of it is shown.
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, silent)
        complain("paste the kubeconfig, or a token; it is not shown. Then press Return and Ctrl-D.")
        while not whole and len(got) <= _LARGEST:
            piece = os.read(descriptor, 4096)
            if _INTERRUPT in piece:
                raise KeyboardInterrupt
            before_end, end, _ = piece.partition(_END_OF_INPUT)
            got += before_end
            whole = bool(end) or not piece
    finally:
        # What is left of a credential that was given up is not for the shell, which would show it.
        when = termios.TCSADRAIN if whole else termios.TCSAFLUSH
        termios.tcsetattr(descriptor, when, before)
    return _limited(bytes(got))


def _kept(directory: Path, profile: str) -> Path:
    return directory / "credentials" / profile


def _keep(directory: Path, profile: str, credential: _Credential) -> Path:
    """Write a credential where only its owner reads it, and return the path."""
    path = _kept(directory, profile)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(credential.text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _require(profile: str, names: list[str], path: Path) -> None:
    if profile in names:
        return
    import difflib

    near = difflib.get_close_matches(profile, names, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    raise MountError(f"There is no profile {profile!r} in {path}.{meant}", ExitCode.NOT_FOUND)
