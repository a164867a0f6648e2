"""What commands about boxes print: tables for people, plain columns for pipes, JSON for programs.

JSON is what models.py of the SDK says, field by field and with its units; times are RFC 3339 in
UTC. What is secret is left out of it: see `json_of`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from devboxfs.cli.terminal import printable, tell

if TYPE_CHECKING:
    from sealos_devbox import EnvVar

__all__ = [
    "HIDDEN",
    "ago",
    "amount",
    "is_secret",
    "json_of",
    "json_option",
    "shown_value",
    "table",
    "tell_json",
    "waiting",
]

HIDDEN = "[hidden]"

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY|(^|_)(KEY|PWD|DSN)$",
    re.IGNORECASE,
)
"""Names of variables whose values are not shown unless asked for."""

_STATE_STYLES = {
    "running": "green",
    "success": "green",
    "error": "red",
    "failed": "red",
    "pending": "yellow",
    "stopped": "dim",
    "paused": "dim",
    "shutdown": "dim",
}


def json_of(value: object, *, secrets: bool = False) -> Any:  # noqa: ANN401 - any JSON value
    """Return a model as JSON; without `secrets`, credentials and hidden variables are null."""
    from sealos_devbox import EnvVar, Secret

    if isinstance(value, EnvVar):
        hidden = value.value is not None and not secrets and is_secret(value)
        found = _fields(value, secrets=secrets)
        return {**found, "value": None if hidden else value.value, "hidden": hidden}
    if isinstance(value, Secret):
        return value.reveal() if secrets else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value, secrets=secrets)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): json_of(one, secrets=secrets) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(one, secrets=secrets) for one in value]
    return str(value) if isinstance(value, str) else value


def _fields(value: Any, *, secrets: bool) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    return {
        field.name: json_of(getattr(value, field.name), secrets=secrets)
        for field in dataclasses.fields(value)
    }


def tell_json(value: object, *, secrets: bool = False) -> None:
    """Print a model, or a list of them, as JSON."""
    click.echo(json.dumps(json_of(value, secrets=secrets), indent=2))


def is_secret(variable: EnvVar) -> bool:
    """Say whether the name of a variable speaks of a credential."""
    return _SECRET_NAME.search(variable.name) is not None


def shown_value(variable: EnvVar, *, secrets: bool) -> str:
    """Return a variable's value for people."""
    if variable.secret is not None:
        return f"(key {variable.secret.key} of the secret {variable.secret.name})"
    return HIDDEN if is_secret(variable) and not secrets else variable.value or ""


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows: framed by colour on a terminal, elsewhere in plain columns that are never cut."""
    texts = [[printable("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not texts:
        if sys.stdout.isatty():
            tell(empty)
        return
    if sys.stdout.isatty():
        _rich_table(columns, texts)
        return
    heads = [column.upper() for column in columns]
    widths = [max(len(line[at]) for line in [heads, *texts]) for at in range(len(columns))]
    for line in [heads, *texts]:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell, _STATE_STYLES.get(cell, "")) for cell in row))
    Console().print(made)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show on a terminal that something goes on, for as long as the block lasts."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(printable(text))):
        yield


def amount(count: int | None) -> str:
    """Return bytes for people, as limits are written: 2Gi."""
    if count is None:
        return ""
    for unit, shift in (("Gi", 30), ("Mi", 20), ("Ki", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.4g}{unit}"
    return str(count)


def ago(moment: datetime | None) -> str:
    """Return how long ago something was, for people."""
    if moment is None:
        return ""
    seconds = max((datetime.now(UTC) - moment).total_seconds(), 0.0)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
