"""What the engine remembers of a box: `engine.json` beside its `box.json`.

A box that the engine never saw (another program made it in the store) has no record; it gets one
when it is first asked for. Replaced as a whole, by rename, under the engine's lock.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path
from typing import Literal

import msgspec

from sealos_devbox.server import names, ssh_keys

__all__ = [
    "BoxRecord",
    "DeploymentRecord",
    "EnvVar",
    "PortRecord",
    "ReleaseRecord",
    "SecretKeyRef",
    "State",
    "ValueFrom",
    "load",
    "save",
]

State = Literal["Running", "Paused", "Stopped", "Shutdown"]


class SecretKeyRef(msgspec.Struct, frozen=True):
    """A key of a Secret."""

    name: str
    key: str


class ValueFrom(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Where a variable's value is."""

    secret_key_ref: SecretKeyRef


class EnvVar(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One variable of a box: a value, or where the value is."""

    name: str
    value: str | None = None
    value_from: ValueFrom | None = None


class PortRecord(msgspec.Struct):
    """One port that is reachable from outside."""

    name: str
    number: int
    protocol: str
    network_name: str
    public: bool
    public_host: str
    custom_domain: str = ""


class ReleaseRecord(msgspec.Struct):
    """One release of a box."""

    uid: str
    tag: str
    description: str
    created: float
    status: str = "Pending"
    image: str = ""
    start_after: bool = False
    exec_command: str | None = None


class DeploymentRecord(msgspec.Struct):
    """One release that was deployed."""

    name: str
    tag: str
    host: str
    port: int


class BoxRecord(msgspec.Struct):
    """Everything that the control plane knows of a box."""

    format: int
    unique_id: str
    secret: str
    public_key: str
    private_key: str
    runtime: str
    template_uid: str
    image: str
    cpu_millis: int
    memory_mib: int
    network: str = "SSHGate"
    storage_limit: str = "10Gi"
    state: State = "Running"
    """As desired; the phase follows it."""
    settled: State = "Running"
    """The last state that was reached."""
    changed: float = 0.0
    """When the desired state changed; seconds of the epoch, as all times here."""
    content_id: str = ""
    committing_until: float | None = None
    generation: int = 1
    env: list[EnvVar] = []
    ports: list[PortRecord] = []
    releases: list[ReleaseRecord] = []
    deployments: list[DeploymentRecord] = []
    autostart: str | None = None
    """The command that is run once, as soon as the box runs; None when it was run."""
    labels: dict[str, str] = {}


# Made while one thread imports: msgspec crashes when two threads use a type for the first time
# at once (0.22, `decode(..., type=T)`).
_DECODER = msgspec.json.Decoder(BoxRecord)


def new_record(
    name: str, *, runtime: str, template_uid: str, image: str, cpu_millis: int, memory_mib: int
) -> BoxRecord:
    """Make the record of a box, with keys of its own."""
    private, public = ssh_keys.generate(f"devbox@{name}")
    return BoxRecord(
        format=1,
        unique_id=names.unique_id(),
        secret=names.secret(),
        public_key=public,
        private_key=private,
        runtime=runtime,
        template_uid=template_uid,
        image=image,
        cpu_millis=cpu_millis,
        memory_mib=memory_mib,
        content_id=str(uuid.uuid4()),
    )


def load(path: Path) -> BoxRecord | None:
    """Read a record; None when there is none. Raises msgspec.DecodeError when it is damaged."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _DECODER.decode(raw)


def save(path: Path, record: BoxRecord) -> None:
    """Replace the record, so that a reader sees the old one or the new one."""
    descriptor, temporary = tempfile.mkstemp(prefix=".engine-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
