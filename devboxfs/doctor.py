"""What stands between this machine and a box: each part looked at on its own, and what to do.

Nothing is changed but for one file of a megabyte, which is written into the box by each way and
removed again.
"""

from __future__ import annotations

import contextlib
import email.utils
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import anyio

from devboxfs import preflight
from devboxfs.config import MountError
from devboxfs.way import is_weak
from sealos_devbox import (
    ABSENT,
    ANY,
    Arrears,
    AsyncBox,
    AsyncDevbox,
    Batch,
    BoxNotFoundError,
    BoxState,
    BoxStateError,
    BytesContent,
    CapabilityError,
    ConnectError,
    DeadlineExceededError,
    DevboxConfig,
    DevboxError,
    FileTransport,
    TransportError,
    file_error,
)

__all__ = ["Check", "Examination", "arrears", "examine", "failed", "service_clock"]

State = Literal["ok", "warning", "failed"]

RUNGS: Final = ("helper", "agent", "exec")
STATS: Final = 10
SIZE: Final = 1 << 20
PATIENCE: Final = 60.0
"""Seconds for one rung, beyond the deadlines that its steps have."""
SKEW: Final = 5.0
"""Seconds by which clocks may differ: make and rsync compare times of both machines."""
ARREARS_WAIT: Final = 10.0
"""Seconds for the cluster's answer; that it cannot be reached is told by the ways through it."""
CLOCK_WAIT: Final = 5.0
"""Seconds for an answer of the service that is asked for its time."""
EXTRAS: Final = (
    ("httpx", "control", "control planes and agents"),
    ("kubernetes", "cluster", "clusters"),
    ("websockets", "cluster", "clusters"),
    ("starlette", "server", "the embedded engine's control plane"),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    text: str
    """What was found."""
    advice: str = ""
    """What to do about it."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Measurements: milliseconds, and bytes a second."""


@dataclass(slots=True)
class Examination:
    """All of them, and the first error that `devboxfs mount` would end with."""

    checks: list[Check] = field(default_factory=list)
    failure: MountError | DevboxError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "ok": self.failure is None,
            "checks": [
                {name: getattr(check, name) for name in Check.__dataclass_fields__}
                for check in self.checks
            ],
        }


async def examine(
    config: DevboxConfig, box: str | None, say: Callable[[Check], None]
) -> Examination:
    """Look at this machine, at the service, and at every way to the box; `say` is told of each."""
    found = Examination()

    def note(check: Check, failure: MountError | DevboxError | None = None) -> None:
        found.checks.append(check)
        say(check)
        if failure is not None and found.failure is None:
            found.failure = failure

    _look_here(note)
    try:
        async with AsyncDevbox(config) as devbox:
            note(Check("service", "ok", f"{devbox.service}, {devbox.reason}"))
            if devbox.service.startswith(("https://", "http://")):
                skew = await service_clock(devbox.service, config.ca_file)
                if skew is not None:
                    note(skew)
            one = await _ask_service(devbox, box, note)
            with anyio.move_on_after(ARREARS_WAIT), contextlib.suppress(DevboxError):
                held = await devbox.arrears()
                if held is not None:
                    note(arrears(held))
            embedded = devbox.is_embedded
    except DevboxError as error:
        note(failed("service", error), error)
        return found
    if one is not None:
        await _try_rungs(config, one, note, RUNGS[:1] if embedded else RUNGS)
    return found


Note = Callable[..., None]


def _look_here(note: Note) -> None:
    try:
        preflight.check_fuse()
        note(Check("fuse", "ok", "/dev/fuse can be opened"))
    except MountError as error:
        note(Check("fuse", "failed", "nothing can be mounted", error.text), error)
    version = ".".join(map(str, sys.version_info[:3]))
    missing = [
        (package, extra, purpose)
        for package, extra, purpose in EXTRAS
        if importlib.util.find_spec(package) is None
    ]
    note(Check("python", "ok", f"Python {version}"))
    for package, extra, purpose in missing:
        note(
            Check(
                "python",
                "warning",
                f"the package {package} is not installed, which {purpose} need",
                f"Install it with: pip install 'sealos-devbox[{extra}]'",
            )
        )


async def _ask_service(devbox: AsyncDevbox, name: str | None, note: Note) -> str | None:
    """Return the name of the box, when it is there and runs."""
    started = time.monotonic()
    try:
        boxes = await devbox.list()
    except DevboxError as error:
        note(failed("authentication", error), error)
        return None
    took = 1000 * (time.monotonic() - started)
    known = f"{len(boxes)} box{'' if len(boxes) == 1 else 'es'}"
    note(
        Check(
            "authentication",
            "ok",
            f"the service answers, and shows {known}",
            figures={"milliseconds": round(took, 1)},
        )
    )
    if name is None:
        return None
    try:
        box = await devbox.get(name)
    except DevboxError as error:
        note(failed("box", error), error)
        return None
    state = box.info.state if box.info is not None else None
    if state in (None, BoxState.RUNNING):
        note(Check("box", "ok", box.location))
        return name
    stopped = BoxStateError(f"The box is {state}.", hint=f"Start it: devboxfs box start {name}")
    note(failed("box", stopped), stopped)
    return None


async def _try_rungs(config: DevboxConfig, name: str, note: Note, rungs: tuple[str, ...]) -> None:
    strong = False
    failure: DevboxError | None = None
    asked = config.transport or os.environ.get("DEVBOX_TRANSPORT") or "auto"
    if asked not in ("auto", *rungs):
        rungs = (*rungs, asked)
    for rung in rungs:
        try:
            async with AsyncDevbox(replace(config, transport=rung)) as devbox:
                box = await devbox.get(name)
                check, skew = await _measure(box, rung)
        except DevboxError as error:
            failure = failure or error
            note(failed(rung, error))
            continue
        note(check)
        if skew is not None:
            note(skew)
        strong = strong or check.state == "ok"
    if not strong:
        text = "no way to the box has the helper at its end"
        advice = "A mount is read-only then; --allow-weak makes it writable all the same."
        note(Check("mount", "failed", text, advice), failure or CapabilityError(text, hint=advice))


async def _measure(box: AsyncBox, rung: str) -> tuple[Check, Check | None]:
    started = time.monotonic()
    async with _opened(box) as transport:
        opened = time.time_ns()
        figures: dict[str, Any] = {"open_milliseconds": _ms(started)}
        times = []
        for _ in range(STATS):
            started = time.monotonic()
            await transport.stat(b"")
            times.append(_ms(started))
        figures["stat_milliseconds"] = statistics.median(times)
        await _transfer(transport, figures)
        weak = is_weak(transport)
        described = box.rung.description if box.rung is not None else rung
        lacks = box.rung.weaker if box.rung is not None else ()
        # The box said its time when the way was opened.
        offset = (transport.peer.clock_ns - opened) / 1e9
    text = (
        f"{described}: opens in {figures['open_milliseconds']:.0f} ms, stat "
        f"{figures['stat_milliseconds']:.1f} ms, "
        f"up {figures['up_bytes_per_second'] / 1e6:.1f} MB/s, "
        f"down {figures['down_bytes_per_second'] / 1e6:.1f} MB/s"
    )
    advice = "" if not weak else f"What it lacks: {'; '.join(lacks)}."
    check = Check(rung, "warning" if weak else "ok", text, advice, figures)
    if abs(offset) <= SKEW + 1:
        return check, None
    return check, Check(
        "clock",
        "warning",
        f"the box's clock is {abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}",
        "make and rsync compare times of both machines: set the clock of this one (NTP).",
        {"seconds": round(offset, 1)},
    )


async def _transfer(transport: FileTransport, figures: dict[str, Any]) -> None:
    """Write a file, read it back, and remove it."""
    content = os.urandom(SIZE)
    name = f".devboxfs-doctor-{os.urandom(6).hex()}".encode()
    batch = Batch()
    batch.put(1, name, ABSENT, batch.add_content(BytesContent(content), 0o600, time.time_ns()))
    try:
        started = time.monotonic()
        result = await transport.apply(batch)
        figures["up_bytes_per_second"] = round(SIZE / (time.monotonic() - started))
        for outcome in result.outcomes:
            if outcome.errno:
                raise file_error(outcome.errno, name)
        started = time.monotonic()
        _attributes, read = await transport.read(name)
        figures["down_bytes_per_second"] = round(SIZE / (time.monotonic() - started))
        if read != content:
            raise ConnectError("What was read back is not what was written.")
    finally:
        with anyio.move_on_after(10, shield=True):
            gone = Batch()
            gone.unlink(1, name, ANY)
            await transport.apply(gone)


async def service_clock(address: str, ca_file: str | os.PathLike[str] | None) -> Check | None:
    """Compare this machine's clock with what an answer of the service says; None when it agrees.

    Nothing is said either where no answer comes: that the service cannot be reached is told by who
    has more to ask of it.
    """
    import ssl

    import httpx

    try:
        verify: ssl.SSLContext | bool = True
        if ca_file is not None:
            verify = ssl.create_default_context(cafile=os.fspath(ca_file))
        async with httpx.AsyncClient(verify=verify, timeout=CLOCK_WAIT) as client:
            before = time.time()
            answer = await client.head(address)
            here = (before + time.time()) / 2
        # Whole seconds, cut off.
        there = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp() + 0.5
    except (httpx.HTTPError, OSError, KeyError, ValueError):
        return None
    offset = there - here
    if abs(offset) <= SKEW + 1:
        return None
    return Check(
        "clock",
        "warning",
        f"this machine's clock is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} "
        "the service's",
        "Certificates and tokens are not valid yet, or no more, by a wrong clock: set this one "
        "(NTP).",
        {"seconds": round(offset, 1)},
    )


def arrears(found: Arrears) -> Check:
    """Return the line for a workspace whose account is in arrears."""
    signs = []
    if found.status:
        signs.append(f"it is marked {found.status!r}")
    if found.no_pods:
        signs.append("a quota of nothing keeps boxes from starting")
    text = f"the account of the workspace is in arrears: {', and '.join(signs)}"
    advice = "Top the account up, or renew its plan; start the box when the workspace is resumed."
    if found.deletes:
        text += "; what is in it is being removed"
        advice = "Ask who runs the service, at once, whether the box can still be saved."
    figures = {"status": found.status, "no_pods": found.no_pods}
    return Check("arrears", "warning", text, advice, figures)


@asynccontextmanager
async def _opened(box: AsyncBox) -> AsyncIterator[FileTransport]:
    try:
        with anyio.fail_after(PATIENCE):
            async with box.open_transport() as transport:
                yield transport
    except TimeoutError:
        raise ConnectError(f"It did not come to an end within {PATIENCE:g} s.") from None


def _ms(started: float) -> float:
    return round(1000 * (time.monotonic() - started), 2)


def failed(name: str, error: DevboxError) -> Check:
    """Return the line for what did not work, which always says what to do."""
    advice = error.hint
    if not advice and isinstance(error, TransportError | DeadlineExceededError):
        advice = "Look whether a firewall or a proxy is between this machine and it."
    if not advice and isinstance(error, BoxNotFoundError):
        advice = "devboxfs box list shows which there are; devboxfs box create makes one."
    if not advice and isinstance(error, BoxStateError):
        advice = "devboxfs box list shows in which state it is; devboxfs box start starts it."
    if not advice:
        advice = "Try again; if it stays so, tell who runs the service what this line says."
    return Check(name, "failed", str(error), advice, {"code": error.code, "hop": error.hop})
