"""HTTP/2 where it is offered, and no credential in what its libraries log."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.contract.control import client
from tests.fakes.control_documents import TOKEN
from tests.fakes.control_plane import ControlPlane

SEEN: list[str] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The fake control plane as an ASGI application; notes the version of HTTP."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    SEEN.append(scope["http_version"])
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    reply = PLANE.answer(scope["method"], scope["path"], headers, body)
    kind = [(b"content-type", reply.content_type.encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": kind})
    await send({"type": "http.response.body", "body": reply.encoded()})


PLANE = ControlPlane()


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Path]:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.certfile = config.keyfile = str(tmp_path / "server.pem")
    config.alpn_protocols = ["h2"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 0.1
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    server = serve(app, config, shutdown_trigger=stop.wait)
    thread = threading.Thread(target=loop.run_until_complete, args=(server,))
    thread.start()
    PLANE.address = f"https://127.0.0.1:{listener.getsockname()[1]}"
    yield tmp_path / "ca.pem"
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()
    with contextlib.suppress(OSError):
        listener.close()


@pytest.mark.slow
async def test_many_requests_on_one_connection(
    authority: Path, caplog: pytest.LogCaptureFixture
) -> None:
    SEEN.clear()
    logging.getLogger("hpack").setLevel(logging.NOTSET)
    with caplog.at_level(logging.DEBUG):
        async with client(PLANE, ca_file=authority) as devbox:
            assert await devbox.list() == []
            assert await devbox.templates()
    assert set(SEEN) == {"2"}
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "GET /api/v1/devbox: 200" in text
    assert TOKEN not in text
    assert "Encoded header block" not in text  # the credential can be decoded from that
    assert text.count("connect_tcp.started") == 1
