"""A box as it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from sealos_devbox.models import EnvVar, PortRequest, TemplateMatch

__all__ = ["BoxSpec"]


@dataclass(frozen=True, slots=True)
class BoxSpec:
    """What `create` asks the service for; everything in it has been checked."""

    name: str
    template: TemplateMatch
    cpu: float
    """Cores."""
    memory: int
    """Bytes."""
    storage: int | None = None
    """Bytes; None for the service's default."""
    ports: tuple[PortRequest, ...] = ()
    env: tuple[EnvVar, ...] = ()
    autostart: bool = False
