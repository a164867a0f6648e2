"""Serving the engine: hypercorn under asyncio or trio, on loopback unless told otherwise.

Everything that is sent to the engine is run with this user's rights, so an address that others can
reach needs TLS, or an explicit wish.
"""

from __future__ import annotations

import errno
import importlib
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
from hypercorn.config import Config
from starlette.applications import Starlette

from sealos_devbox.errors import DevboxError
from sealos_devbox.server.app import create_app
from sealos_devbox.server.credentials import write_kubeconfig
from sealos_devbox.server.engine import Engine
from sealos_devbox.server.settings import EngineSettings

__all__ = ["ServeError", "ServeOptions", "Served", "serve", "serving"]

Backend = Literal["asyncio", "trio"]

# As the API server of a cluster takes them (exec-stream contract, 1.5).
_MESSAGE_LIMIT = 32 * 2**20
_BACKLOG = 256


class ServeError(DevboxError):
    """The engine cannot be served like that."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where and how the engine is served."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any that is free."""
    certificate: Path | None = None
    """With `key`: TLS."""
    key: Path | None = None
    insecure: bool = False
    """True: other machines may reach it without TLS."""
    backend: Backend = "asyncio"


@dataclass(frozen=True, slots=True)
class Served:
    """An engine that is being served."""

    url: str
    """Of the control plane and the cluster's API alike."""
    kubeconfig: Path
    token_file: Path | None
    """None when the token was given."""
    app: Starlette


def _check(options: ServeOptions) -> None:
    if (options.certificate is None) != (options.key is None):
        raise ServeError("TLS needs both a certificate and its key.")
    if options.certificate is not None or options.insecure or _is_loopback(options.host):
        return
    raise ServeError(
        f"{options.host} can be reached from other machines, and without TLS they could read the "
        "engine's token.",
        hint="Give a certificate and a key, or say that it is to be insecure.",
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(options: ServeOptions) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        where = f"{options.host} port {options.port}"
        hint = "Another program has it." if error.errno == errno.EADDRINUSE else ""
        raise ServeError(f"Cannot listen on {where}: {error.strerror}", hint=hint) from error
    return listener


def serve(
    settings: EngineSettings,
    options: ServeOptions | None = None,
    *,
    on_ready: Callable[[Served], None] = lambda _: None,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Serve the engine until SIGINT or SIGTERM, or until `stop` says so; blocks.

    Writes a kubeconfig for it into the data directory and calls `on_ready` when connections are
    taken. Raises ServeError when it cannot be served like that.
    """
    options = options or ServeOptions()
    _check(options)
    listener = _listen(options)
    try:
        port = listener.getsockname()[1]
        scheme = "http" if options.certificate is None else "https"
        host = f"[{options.host}]" if ":" in options.host else options.host
        engine = Engine(settings)
        app = create_app(settings, engine=engine)
        kubeconfig = engine.directory / "kubeconfig"
        url = f"{scheme}://{host}:{port}"
        write_kubeconfig(kubeconfig, server=url, namespace=settings.namespace, token=engine.token)
        token_file = engine.directory / "token" if settings.token is None else None
        served = Served(url, kubeconfig, token_file, app)
        # hypercorn makes the socket again from a duplicate of the descriptor.
        config = Config()
        config.bind = [f"fd://{os.dup(listener.fileno())}"]
        config.websocket_max_message_size = _MESSAGE_LIMIT
        config.graceful_timeout = 1.0
        config.accesslog = None
        config.errorlog = None
        if options.certificate is not None:
            config.certfile, config.keyfile = str(options.certificate), str(options.key)
        arguments = (app, config, options.backend, served, on_ready, stop)
        anyio.run(_serve, *arguments, backend=options.backend)
    finally:
        listener.close()


async def _serve(
    app: Starlette,
    config: Config,
    backend: Backend,
    served: Served,
    on_ready: Callable[[Served], None],
    stop: Callable[[], bool] | None,
) -> None:
    server = importlib.import_module(f"hypercorn.{backend}")
    ended = anyio.Event()

    async def shutdown() -> None:
        await ended.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_wait_for_end, ended, stop)
        # The socket listens already: whoever connects now is served as soon as hypercorn is up.
        on_ready(served)
        await server.serve(app, config, shutdown_trigger=shutdown)
        tasks.cancel_scope.cancel()


async def _wait_for_end(ended: anyio.Event, stop: Callable[[], bool] | None) -> None:
    if stop is not None:
        while not stop():  # noqa: ASYNC110 - another thread says so
            await anyio.sleep(0.02)
        ended.set()
        return
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            ended.set()
            return


@contextmanager
def serving(settings: EngineSettings, options: ServeOptions | None = None) -> Iterator[Served]:
    """Serve the engine in a thread for as long as the block lasts."""
    ready = threading.Event()
    ended = threading.Event()
    found: list[Served] = []
    failures: list[BaseException] = []

    def take(served: Served) -> None:
        found.append(served)
        ready.set()

    def work() -> None:
        try:
            serve(settings, options, on_ready=take, stop=ended.is_set)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="devbox-engine", daemon=True)
    thread.start()
    ready.wait()
    try:
        if failures:
            raise failures[0]
        yield found[0]
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]
