"""Amounts: what people write, what Kubernetes writes, and what the control plane accepts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

__all__ = [
    "CPU_CHOICES",
    "GIB",
    "MEMORY_CHOICES",
    "MIB",
    "check_resources",
    "cores",
    "gib",
    "parse_cpu",
    "parse_size",
    "shown_size",
    "storage_quantity",
]

MIB = 1024**2
GIB = 1024**3

CPU_CHOICES = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Cores that v1 takes."""
MEMORY_CHOICES = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""GiB that v1 takes."""
_LEAST, _MOST = 0.1, 32.0
"""What v2alpha takes, cores and GiB, anything between."""

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)")
_SUFFIXES = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1000,
    "m": 1000**2,
    "mb": 1000**2,
    "g": 1000**3,
    "gb": 1000**3,
    "t": 1000**4,
    "tb": 1000**4,
    "ki": 1024,
    "kib": 1024,
    "mi": MIB,
    "mib": MIB,
    "gi": GIB,
    "gib": GIB,
    "ti": 1024**4,
    "tib": 1024**4,
}


def parse_cpu(value: float | str) -> float:
    """Return cores for a number of them, or a quantity as ``"500m"``; raises ValueError."""
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value.strip())
        if match is None or match[2] not in ("", "m"):
            raise ValueError(f"{value!r} is no number of cores: write 0.5 or '500m'")
        number = float(match[1]) / (1000 if match[2] else 1)
    else:
        number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{value!r} is no number of cores")
    return number


def parse_size(value: int | str, what: str = "memory") -> int:
    """Return bytes for a number of them, or a size as ``"2Gi"``; raises ValueError."""
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value.strip())
        if match is None or match[2].lower() not in _SUFFIXES:
            raise ValueError(f"{value!r} is no size: write '512Mi' or '2Gi'")
        # A lower-case m is Kubernetes' milli, which makes no sense here: it is taken for mega.
        size = float(match[1]) * _SUFFIXES[match[2].lower()]
    else:
        size = float(value)
    if not (math.isfinite(size) and size >= 1):
        raise ValueError(f"{value!r} is no size")
    if size < MIB:
        guess = f": did you mean '{value}Gi'?" if size <= 64 and float(size).is_integer() else ""
        raise ValueError(f"{what} of {size:g} bytes is no use; it is given in bytes{guess}")
    return round(size)


def cores(number: float) -> str:
    """Return cores for people to read."""
    return f"{number:g} core" + ("" if number == 1 else "s")


def gib(size: float) -> float:
    """Return GiB, as short as the service writes them."""
    return round(size / GIB, 4)


def shown_size(size: float) -> str:
    """Return a size for people to read."""
    return f"{size / GIB:g}Gi" if size >= GIB else f"{size / MIB:g}Mi"


def storage_quantity(size: int) -> str:
    """Return bytes as Kubernetes writes them."""
    for suffix, unit in (("Gi", GIB), ("Mi", MIB)):
        if size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def chosen(value: float, choices: Sequence[float]) -> float | None:
    """Return the choice that `value` is, None when it is none; 0.1 GiB is no whole bytes."""
    for choice in choices:
        if math.isclose(value, choice, rel_tol=0.03):
            return choice
    return None


def check_resources(cpu: float | None, memory: int | None, *, any_value: bool) -> None:
    """Raise ValueError, with what is nearest, for what the service would refuse.

    `any_value`: whether there is a route that takes anything between the smallest and the largest.
    """
    if cpu is not None:
        _check("cpu", cpu, CPU_CHOICES, any_value, cores)
    if memory is not None:
        _check(
            "memory", memory / GIB, MEMORY_CHOICES, any_value, lambda size: shown_size(size * GIB)
        )


def _check(
    what: str,
    value: float,
    choices: Sequence[float],
    any_value: bool,
    shown: Callable[[float], str],
) -> None:
    if chosen(value, choices) is not None:
        return
    if any_value and _LEAST * 0.97 <= value <= _MOST:
        return
    if any_value:
        raise ValueError(f"{what} must be between {shown(_LEAST)} and {shown(_MOST)}")
    below = [choice for choice in choices if choice < value]
    above = [choice for choice in choices if choice > value]
    near = [shown(choice) for choice in (*below[-1:], *above[:1])]
    every = ", ".join(shown(choice) for choice in choices)
    raise ValueError(
        f"{what} cannot be {shown(value)} here; {' and '.join(near)} "
        f"{'are' if len(near) > 1 else 'is'} the nearest of: {every}"
    )
