"""What the commands show: lines, passing texts, and values that they take in words."""

from __future__ import annotations

import sys
from typing import Any

import click

from devboxfs.config import parse_size

__all__ = ["Octal", "Size", "Waiter", "complain", "printable", "tell"]


def printable(text: str) -> str:
    """Make text safe to print: names of files may hold any byte, control characters among them."""
    kept = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return kept.encode("utf-8", "backslashreplace").decode()


def tell(text: str) -> None:
    """Print a line."""
    click.echo(printable(text))


def complain(text: str) -> None:
    """Print a line on standard error, as this command's."""
    click.echo(f"devboxfs: {printable(text)}", err=True)


class Waiter:
    """Texts while something goes on: lasting ones as lines, passing ones in place on a terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._shown = False

    def say(self, text: str, passing: bool) -> None:
        """Show a text of the daemon."""
        if not passing:
            self.clear()
            tell(text)
        elif self._terminal:
            self._show(text)

    def tick(self, seconds: float) -> None:
        """Show that time passes."""
        if self._terminal and not self._shown:
            self._show(f"{self._what} ({seconds:.0f} s)")
            self._shown = False

    def progress(self, left: dict[str, Any]) -> None:
        """Show what is left to be sent."""
        from devboxfs.overview import plural, size

        if self._terminal and "operations" in left:
            count, held = int(left["operations"]), int(left.get("bytes") or 0)
            self._show(f"{self._what}: {plural(count, 'operation')}, {size(held)} left")

    def _show(self, text: str) -> None:
        click.echo(f"\r\x1b[K{printable(text)}", err=True, nl=False)
        self._shown = True

    def clear(self) -> None:
        """Take a passing text away."""
        if self._terminal:
            click.echo("\r\x1b[K", err=True, nl=False)
        self._shown = False


class Size(click.ParamType[int]):
    """A number of bytes such as `512M`."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Octal(click.ParamType[int]):
    """Permission bits such as `022`."""

    name = "octal"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        try:
            return int(str(value), 8)
        except ValueError:
            self.fail(f"{value!r} is no octal number.", param, ctx)
