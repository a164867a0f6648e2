"""What requests to the control plane may say (control-plane.md 4.3, 4.5, 5, 6)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from sealos_devbox.server.operations import Invalid
from sealos_devbox.server.record import EnvVar

__all__ = [
    "CPU_CHOICES",
    "MEMORY_CHOICES",
    "NAME_PATTERN",
    "AutostartForm",
    "CreateForm",
    "Nothing",
    "PatchForm",
    "PortForm",
    "PortsForm",
    "ReleaseForm",
    "ResourceForm",
    "check_choices",
    "check_env",
]

NAME_PATTERN = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
CPU_CHOICES = (0.1, 0.2, 0.5, 1, 2, 4, 8, 16)
MEMORY_CHOICES = (0.1, 0.5, 1, 2, 4, 8, 16, 32)

BoxName = Annotated[str, Meta(min_length=1, max_length=63, pattern=NAME_PATTERN)]
PortNumber = Annotated[int, Meta(ge=1, le=65535)]
# A tag becomes the last part of an object's name.
Tag = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9][-a-zA-Z0-9_.]*$")]
Cpu = Annotated[float, Meta(extra_json_schema={"enum": list(CPU_CHOICES)})]
Memory = Annotated[float, Meta(extra_json_schema={"enum": list(MEMORY_CHOICES)})]


class Nothing(Struct):
    """`{}`, which must be sent all the same."""


class ResourceForm(Struct):
    """Sizes, from the lists that the service takes."""

    cpu: Cpu
    memory: Memory


class PortForm(Struct, rename="camel"):
    """A port: with a name the one to change, without a new one."""

    port_name: str | None = None
    number: PortNumber | None = None
    protocol: Literal["HTTP", "GRPC", "WS"] | None = None
    exposes_public_domain: bool | None = None
    custom_domain: str | None = None


class NewPortForm(Struct, rename="camel"):
    """A port of a new box."""

    number: PortNumber
    protocol: Literal["HTTP", "GRPC", "WS"] = "HTTP"
    exposes_public_domain: bool = True
    custom_domain: str | None = None


class CreateForm(Struct, rename="camel"):
    """A new box."""

    name: BoxName
    runtime: str
    resource: ResourceForm
    ports: list[NewPortForm] = []
    env: list[EnvVar] = []
    autostart: bool = False
    is_runtime_name: bool = False


class PatchForm(Struct):
    """Changes of a box."""

    resource: ResourceForm | None = None
    ports: list[PortForm] | None = None


class PortsForm(Struct):
    """The ports that a box is to have."""

    ports: list[PortForm]


class AutostartForm(Struct, rename="camel"):
    """The command that is run when the box runs."""

    exec_command: str | None = None


class ReleaseForm(Struct, rename="camel"):
    """A new release."""

    tag: Tag
    release_des: str = ""


def check_choices(resource: ResourceForm, prefix: Sequence[str] = ("resource",)) -> None:
    """Raise Invalid unless cpu and memory are among the values that the service takes."""
    for name, value, choices in (
        ("cpu", resource.cpu, CPU_CHOICES),
        ("memory", resource.memory, MEMORY_CHOICES),
    ):
        if not any(math.isclose(value, choice) for choice in choices):
            raise Invalid([*prefix, name], f"Must be one of: {', '.join(map(str, choices))}")


def check_env(env: Sequence[EnvVar]) -> None:
    """Raise Invalid unless every variable has a name and a value, or where its value is."""
    for index, variable in enumerate(env):
        if not variable.name:
            raise Invalid(["env", index, "name"], "Environment variable name is required")
        # What the kernel takes as a variable.
        if "=" in variable.name or "\0" in variable.name + (variable.value or ""):
            raise Invalid(["env", index, "name"], "Not the name of an environment variable")
        if not variable.value and variable.value_from is None:
            raise Invalid(["env", index], "Must have either value or valueFrom")


_UNITS = {"y": 365 * 86400, "w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
_DURATION = re.compile("".join(f"(?:([0-9]+){unit})?" for unit in _UNITS))
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?", re.IGNORECASE)


def duration(text: str) -> float:
    """Return the seconds of a Prometheus duration, or of a plain number of seconds.

    The units of a duration descend from years to milliseconds, each a whole number: "1h30m",
    "6667ms". VictoriaMetrics takes more than that; what is refused here may be refused there.
    """
    if _NUMBER.fullmatch(text):
        seconds = float(text)
    elif match := _DURATION.fullmatch(text):
        counts = (int(count or 0) for count in match.groups())
        seconds = sum(n * unit for n, unit in zip(counts, _UNITS.values(), strict=True))
    else:
        raise Invalid(["step"], "Not a duration")
    if not 0 < seconds < 10 * 365 * 86400:
        raise Invalid(["step"], "Not a duration")
    return seconds


def moment(text: str, name: str) -> float:
    """Return a time that was given in seconds, or in milliseconds when it is that large."""
    try:
        value = float(text)
    except ValueError:
        raise Invalid([name], "Expected number, received nan") from None
    if not math.isfinite(value) or abs(value) > 1e16:
        raise Invalid([name], "Expected number, received nan")
    return value / 1000 if abs(value) > 1e12 else value


def schema_of(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - any type
    """Return the JSON schema of a type."""
    return msgspec.json.schema(kind)


def is_name(name: str) -> bool:
    """Whether a box could have that name."""
    return len(name) <= 63 and re.fullmatch(NAME_PATTERN, name) is not None
