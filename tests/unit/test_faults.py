"""The proxy that stands for a bad path, which other tests take at its word."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.faults import Fault, FaultProxy
from tests.support.waiting import wait_until


class Echo:
    """A server that sends back what it gets, and remembers how each connection ended."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.received = 0
        self.endings: list[str] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[client])
            thread.start()
            self._threads.append(thread)

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(65536):
                    self.received += len(data)
                    client.sendall(data)
                self.endings.append("FIN")
            except OSError:
                self.endings.append("RST")

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in [self._acceptor, *self._threads]:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.listener.getsockname()) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(proxy.address, timeout=20) as client:
        yield client


def receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (part := client.recv(count - len(data))):
        data += part
    return data


@pytest.mark.slow
def test_bytes_pass_unchanged(proxy: FaultProxy, client: socket.socket) -> None:
    data = os.urandom(3_000_000)
    sender = threading.Thread(target=client.sendall, args=[data])
    sender.start()
    received = receive(client, len(data))
    sender.join()
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
    assert (proxy.connections[0].up, proxy.connections[0].down) == (len(data), len(data))


def test_half_closing_passes(echo: Echo, client: socket.socket) -> None:
    client.sendall(b"all")
    client.shutdown(socket.SHUT_WR)
    assert receive(client, 100) == b"all"
    assert echo.endings == ["FIN"]


@pytest.mark.parametrize(("kind", "seen"), [("cut", "FIN"), ("reset", "RST")])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_fault_strikes_after_exactly_so_many_bytes(
    echo: Echo, proxy: FaultProxy, kind: str, seen: str, direction: str
) -> None:
    proxy.plan(Fault(kind, direction, after=1000))  # type: ignore[arg-type]
    with socket.create_connection(proxy.address, timeout=20) as client:
        client.sendall(bytes(3000))
        data, ending = b"", "FIN"
        try:
            while part := client.recv(4096):
                data += part
        except ConnectionResetError:
            ending = "RST"
    assert ending == seen
    wait_until(lambda: not proxy.open_connections)
    assert getattr(proxy.connections[0], direction) == 1000
    if direction == "down":
        assert len(data) == 1000
    else:
        wait_until(lambda: echo.received == 1000)


def test_a_fault_may_strike_at_once(proxy: FaultProxy) -> None:
    proxy.plan(Fault("reset"), None)
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(proxy.address, timeout=20) as first,
    ):
        first.recv(1)
    with socket.create_connection(proxy.address, timeout=20) as second:
        second.sendall(b"fine")
        assert receive(second, 4) == b"fine"


def test_a_black_hole_says_nothing_and_heals(proxy: FaultProxy, client: socket.socket) -> None:
    client.sendall(b"one")
    assert receive(client, 3) == b"one"
    proxy.inflict("black-hole")
    client.sendall(b"two")
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert proxy.open_connections
    client.settimeout(20)
    proxy.heal()
    assert receive(client, 3) == b"two"


def test_a_black_hole_of_one_direction(echo: Echo, proxy: FaultProxy) -> None:
    proxy.plan(Fault("black-hole", "down", after=2, one_way=True))
    with socket.create_connection(proxy.address, timeout=20) as client:
        client.sendall(b"four")
        assert receive(client, 2) == b"fo"
        client.sendall(b"more")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
    assert proxy.connections[0].up == 8


@pytest.mark.slow
def test_delay_does_not_lower_the_rate(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.delay = 0.1
    start = time.monotonic()
    for _ in range(20):
        client.sendall(b"x" * 1000)
        time.sleep(0.001)
    assert len(receive(client, 20_000)) == 20_000
    assert time.monotonic() - start >= 0.2
    # One after the other they would have taken 20 round trips.
    assert time.monotonic() - start < 20 * 0.2


@pytest.mark.slow
def test_a_rate_is_kept(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.rate = 100_000
    start = time.monotonic()
    client.sendall(bytes(20_000))
    assert len(receive(client, 20_000)) == 20_000
    assert time.monotonic() - start >= 0.19


def test_refusing_and_accepting_again(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.address, timeout=20)
    proxy.accept()
    with socket.create_connection(proxy.address, timeout=20) as client:
        client.sendall(b"back")
        assert receive(client, 4) == b"back"
