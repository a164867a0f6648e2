"""The boxes and their life: desired states, phases, commits, releases.

Nothing here is a task: what takes time is a moment that lies ahead (`committing_until`), and
whoever looks at a box first brings it up to date with the clock (`_settle`). So the engine is the
same in one process or several, before and after a restart, with or without a running event loop.
While it is served, `tick` looks at every box several times a second.

Every method blocks on the file system and is called in a thread. A change is made under the lock
of the data directory, and is on disk when the method returns.
"""

from __future__ import annotations

import fcntl
import logging
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sealos_devbox.errors import BoxNotFoundError, DevboxError
from sealos_devbox.server import record as records
from sealos_devbox.server.credentials import kept_token
from sealos_devbox.server.metrics import Metrics
from sealos_devbox.server.processes import Processes, box_environment
from sealos_devbox.server.record import BoxRecord, EnvVar, State
from sealos_devbox.server.refusals import Refusal, already_exists, forbidden_change, not_found
from sealos_devbox.server.settings import EngineSettings
from sealos_devbox.server.store import BoxExistsError, BoxStore, StoredBox
from sealos_devbox.server.templates import Templates

__all__ = ["Box", "Engine"]

_log = logging.getLogger(__name__)

_DEFAULT_RUNTIME = "debian"


@dataclass(frozen=True, slots=True)
class Box:
    """A box as it is now."""

    stored: StoredBox
    record: BoxRecord
    phase: str
    """As `status.phase` of the custom resource (kubernetes.md 2.3)."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.stored.name

    @property
    def uid(self) -> str:
        """Tells boxes of the same name apart."""
        return self.stored.uid

    @property
    def workspace(self) -> Path:
        """Where its files are on this machine."""
        return self.stored.workspace

    @property
    def running(self) -> bool:
        """Whether commands can be run in it."""
        return self.phase == "Running"


class Engine:
    """The boxes of one data directory."""

    def __init__(self, settings: EngineSettings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.clock = clock
        self.store = BoxStore(settings.data_dir)
        self.token = settings.token or kept_token(self.directory)
        self.templates = Templates()
        self.processes = Processes()
        self.metrics = Metrics(self.directory, self.processes, settings, clock)
        self._thread_lock = threading.RLock()
        self._depth = 0

    @property
    def directory(self) -> Path:
        """Where the engine keeps what is its own."""
        path = self.settings.data_dir / "engine"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    # ------------------------------------------------------------------------------- looking

    def boxes(self) -> list[Box]:
        """Return all boxes, by name."""
        found = []
        for stored in self.store.list():
            try:
                found.append(self.box(stored.name))
            except DevboxError as error:
                _log.warning("left out of the list of boxes: %s", error)
            except Refusal as refusal:
                if refusal.status != 404:  # deleted since
                    raise
        return found

    def box(self, name: str) -> Box:
        """Return a box as it is now; raises Refusal (404) when there is none."""
        stored = self._stored(name)
        record = self._load(stored)
        if record is not None and not self._due(record):
            return Box(stored, record, self.phase(record))
        with self.changing(name) as box:
            return box

    def by_unique_id(self, unique_id: str) -> Box | None:
        """Return the box of that public host key."""
        for box in self.boxes():
            if box.record.unique_id == unique_id:
                return box
        return None

    def phase(self, record: BoxRecord) -> str:
        """Compute the phase from what is desired and what goes on."""
        now = self.clock()
        if record.state == "Running":
            if now < record.changed + self.settings.start_seconds or _unresolved(record):
                return "Pending"
            return "Running"
        if record.state == "Paused":
            return "Paused"
        committing = record.committing_until is not None and now < record.committing_until
        if record.state == "Stopped":
            return "Stopping" if committing else "Stopped"
        return "Shutting" if committing else "Shutdown"

    def environment(self, box: Box) -> dict[str, str]:
        """Return the environment of the box's commands."""
        variables = {"DEVBOX_JWT_SECRET": box.record.secret}
        for variable in box.record.env:
            variables[variable.name] = _value(variable, box)
        return box_environment(box.uid, box.workspace, variables)

    # ------------------------------------------------------------------------------ changing

    def create(self, name: str, record: BoxRecord) -> Box:
        """Make a box; raises Refusal (409) when there is one."""
        with self._locked():
            try:
                stored = self.store.create(name)
            except BoxExistsError:
                raise already_exists(name) from None
            record.changed = self.clock()
            records.save(_path(stored), record)
            return Box(stored, record, self.phase(record))

    def delete(self, name: str) -> None:
        """Kill the box's processes and remove it; raises Refusal (404) when there is none."""
        with self._locked():
            stored = self._stored(name)
            self.processes.kill(stored.uid)
            try:
                self.store.delete(name)
            except BoxNotFoundError:
                raise not_found(name) from None
            self.metrics.forget(stored.uid)

    @contextmanager
    def changing(self, name: str) -> Iterator[Box]:
        """Yield a box under the lock; its record is saved at the end, unless by an exception."""
        with self._locked():
            stored = self._stored(name)
            record = self._load(stored) or self._first_record(stored)
            before = msgspec.json.encode(record)
            self._settle(stored, record)
            yield Box(stored, record, self.phase(record))
            if msgspec.json.encode(record) != before or not _path(stored).exists():
                records.save(_path(stored), record)

    def set_state(self, name: str, state: State) -> Box:
        """Ask for a state; raises Refusal (422) while a commit is going on."""
        with self.changing(name) as box:
            self._change(box.stored, box.record, state)
        return self.box(name)

    def restart(self, name: str, *, pause: Callable[[float], None] = time.sleep) -> bool:
        """Stop the box and start it; False: the commit lasted too long, and the box is stopped."""
        deadline = time.monotonic() + self.settings.restart_seconds
        self.set_state(name, "Stopped")
        while True:
            with self.changing(name) as box:
                if not self._committing(box.record):
                    self._change(box.stored, box.record, "Running")
                    return True
            if time.monotonic() >= deadline:
                return False
            pause(0.02)

    def tick(self) -> None:
        """Bring every box up to date with the clock."""
        self.boxes()

    # ------------------------------------------------------------------------------ internal

    def _stored(self, name: str) -> StoredBox:
        try:
            return self.store.get(name)
        except (BoxNotFoundError, ValueError):
            raise not_found(name) from None

    def _load(self, stored: StoredBox) -> BoxRecord | None:
        try:
            return records.load(_path(stored))
        except msgspec.DecodeError as error:
            raise DevboxError(
                f"The box {stored.name!r} is damaged: {_path(stored)}: {error}"
            ) from error

    def _first_record(self, stored: StoredBox) -> BoxRecord:
        repository = self.templates.find(_DEFAULT_RUNTIME)
        assert repository is not None  # noqa: S101 - a constant of the table
        template = repository.versions[0]
        return records.new_record(
            stored.name,
            runtime=repository.name,
            template_uid=template.uid,
            image=template.image,
            cpu_millis=2000,
            memory_mib=4096,
        )

    def _committing(self, record: BoxRecord) -> bool:
        return record.committing_until is not None and self.clock() < record.committing_until

    def _change(self, stored: StoredBox, record: BoxRecord, state: State) -> None:
        if state == record.state:
            return
        if self._committing(record):
            raise forbidden_change(stored.name)
        before, record.state = record.state, state
        record.changed = self.clock()
        record.generation += 1
        if state != "Running":
            self.processes.kill(stored.uid)
        if before in ("Running", "Paused") and state in ("Stopped", "Shutdown"):
            record.committing_until = record.changed + self.settings.commit_seconds
        self._settle(stored, record)

    def _due(self, record: BoxRecord) -> bool:
        """Whether time has passed something by that is not in the record yet."""
        now = self.clock()
        if record.committing_until is not None:
            return now >= record.committing_until
        if record.state == "Running":
            return self.phase(record) == "Running" and (
                record.autostart is not None or record.settled != "Running"
            )
        return record.settled != record.state or any(
            release.status == "Pending" for release in record.releases
        )

    def _settle(self, stored: StoredBox, record: BoxRecord) -> None:
        if record.committing_until is not None and self.clock() >= record.committing_until:
            record.committing_until = None
            record.content_id = str(uuid.uuid4())
        if record.committing_until is None and record.state in ("Stopped", "Shutdown"):
            record.settled = record.state
            self._release(stored, record)
        if record.state == "Paused":
            record.settled = "Paused"
        if record.state == "Running" and self.phase(record) == "Running":
            record.settled = "Running"
            if record.autostart is not None:
                command, record.autostart = record.autostart, None
                self._autostart(stored, record, command)

    def _release(self, stored: StoredBox, record: BoxRecord) -> None:
        """Finish what waited for the box to be stopped."""
        start = False
        for release in record.releases:
            if release.status == "Pending":
                release.status = "Success"
                release.image = (
                    f"registry.invalid/{self.settings.namespace}/{stored.name}:{release.tag}"
                )
                start = start or release.start_after
                if release.start_after and release.exec_command:
                    record.autostart = release.exec_command
        if start:
            self._change(stored, record, "Running")

    def _autostart(self, stored: StoredBox, record: BoxRecord, command: str) -> None:
        box = Box(stored, record, "Running")
        try:
            process = self.processes.start(
                ["/bin/bash", "-c", command],
                cwd=stored.workspace,
                environment=self.environment(box),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            _log.warning("the autostart command of %s could not be run: %s", stored.name, error)
            return
        threading.Thread(target=process.wait, name="autostart", daemon=True).start()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the data directory; may be nested."""
        with self._thread_lock:
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            with (self.directory / "lock").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._depth = 1
                try:
                    yield
                finally:
                    self._depth = 0


def _path(stored: StoredBox) -> Path:
    return stored.workspace.parent / "engine.json"


def secret_data(box: Box) -> dict[str, str]:
    """Return what is in the box's Secret, not encoded."""
    profile = "".join(
        f'export {variable.name}="{variable.value}"\n'
        for variable in box.record.env
        if variable.value is not None
    )
    return {
        "SEALOS_DEVBOX_JWT_SECRET": box.record.secret,
        "SEALOS_DEVBOX_PUBLIC_KEY": box.record.public_key,
        "SEALOS_DEVBOX_PRIVATE_KEY": box.record.private_key,
        "SEALOS_DEVBOX_AUTHORIZED_KEYS": box.record.public_key,
        "SEALOS_DEVBOX_ENV_PROFILE": profile + f'export DEVBOX_JWT_SECRET="{box.record.secret}"\n',
    }


_SECRET_KEYS = (
    "SEALOS_DEVBOX_JWT_SECRET",
    "SEALOS_DEVBOX_PUBLIC_KEY",
    "SEALOS_DEVBOX_PRIVATE_KEY",
    "SEALOS_DEVBOX_AUTHORIZED_KEYS",
    "SEALOS_DEVBOX_ENV_PROFILE",
)


def _value(variable: EnvVar, box: Box) -> str:
    if variable.value_from is None:
        return variable.value or ""
    reference = variable.value_from.secret_key_ref
    return secret_data(box).get(reference.key, "") if reference.name == box.name else ""


def _unresolved(record: BoxRecord) -> bool:
    """Whether a variable refers to what does not exist: then the container is never started.

    The only Secret there is besides is the box's own, whose keys are known.
    """
    return any(
        variable.value_from is not None
        and variable.value_from.secret_key_ref.key not in _SECRET_KEYS
        for variable in record.env
    )
