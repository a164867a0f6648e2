"""What requests to v2alpha may say (control-plane contract, 6)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from sealos_devbox.server.control import forms
from sealos_devbox.server.record import EnvVar
from sealos_devbox.server.templates import RUNTIMES_V2ALPHA

__all__ = ["CreateForm", "NewPort", "PatchForm", "PortPatch", "Protocol", "ReleaseForm"]

Protocol = Literal["http", "grpc", "ws"]
Size = Annotated[float, Meta(ge=0.1, le=32)]
Runtime = Annotated[str, Meta(extra_json_schema={"enum": sorted(RUNTIMES_V2ALPHA)})]


class QuotaForm(Struct):
    """Sizes of a new box: cores and GiB."""

    cpu: Size
    memory: Size


class QuotaPatch(Struct):
    """Sizes to change."""

    cpu: Size | None = None
    memory: Size | None = None


class NewPort(Struct, rename="camel"):
    """A port of a new box."""

    number: forms.PortNumber
    protocol: Protocol = "http"
    is_public: bool = True
    custom_domain: str | None = None


class PortPatch(Struct, rename="camel"):
    """A port to make or to change."""

    port_name: str | None = None
    number: forms.PortNumber | None = None
    protocol: Protocol | None = None
    is_public: bool | None = None
    custom_domain: str | None = None


class CreateForm(Struct):
    """A new box."""

    name: forms.BoxName
    runtime: Runtime
    quota: QuotaForm
    ports: list[NewPort] = []
    env: list[EnvVar] = []
    autostart: bool = False


class PatchForm(Struct):
    """Changes of a box."""

    quota: QuotaPatch | None = None
    ports: list[PortPatch] | None = None


class ReleaseForm(Struct, rename="camel"):
    """A new release, for which the box is stopped."""

    tag: forms.Tag
    release_description: str = ""
    exec_command: str | None = None
    start_devbox_after_release: bool = True
