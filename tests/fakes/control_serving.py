"""The fake control plane on a real socket of this machine."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.fakes.control_plane import ControlPlane


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else each answer waits for the acknowledgement of its head.
    disable_nagle_algorithm = True
    wbufsize = -1
    plane: ControlPlane

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError, ssl.SSLError, ValueError):
            self.close_connection = True

    def _handle(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.plane.answer(self.command, self.path, headers, raw)
        body = reply.encoded()
        self.send_response(reply.status)
        if body:
            self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        if reply.cut or reply.slow:
            self.wfile.flush()
        if reply.cut:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if reply.slow:
            threading.Event().wait(reply.slow)
        self.wfile.write(body[half:])

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that went away."""


@contextmanager
def serving(plane: ControlPlane, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve it, and yield its address."""
    handler = type("Handler", (_Handler,), {"plane": plane})
    server = _Server(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    scheme = "https" if context else "http"
    plane.address = f"{scheme}://127.0.0.1:{server.server_port}"
    try:
        yield plane.address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
