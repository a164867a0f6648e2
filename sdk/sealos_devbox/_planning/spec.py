"""A box as it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sealos_devbox._planning.quantities import GIB
from sealos_devbox._planning.templates import match_template
from sealos_devbox.models import EnvVar, Port, PortRequest, TemplateMatch

__all__ = ["BoxRequest", "BoxSpec"]


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
    ports: tuple[PortRequest | Port, ...] = ()
    env: tuple[EnvVar, ...] = ()
    autostart: bool = False
    by_name: bool = False
    """Whether the template is meant by its own name, which the list of templates does not have."""


@dataclass(frozen=True, slots=True)
class BoxRequest:
    """What a caller of `create` wrote, as far as it can be checked without the region."""

    language: str | None = None
    runtime: str | None = None
    cpu: float | None = None
    memory: int | None = None
    storage: int | None = None
    ports: tuple[PortRequest | Port, ...] = ()
    env: tuple[EnvVar, ...] = ()
    autostart: bool = False
    template: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it asks for nothing but a box."""
        return self == BoxRequest()

    def spec(self, name: str, offered: Sequence[str]) -> BoxSpec:
        """Return the box that is asked for; raises ValueError when no template fits."""
        if self.template is not None:
            template = TemplateMatch(self.template, self.template, exact=True)
        else:
            template = match_template(self.runtime, self.language, offered)
        return BoxSpec(
            name=name,
            template=template,
            cpu=self.cpu or 1.0,
            memory=self.memory or 2 * GIB,
            storage=self.storage,
            ports=self.ports,
            env=self.env,
            autostart=self.autostart,
            by_name=self.template is not None,
        )
