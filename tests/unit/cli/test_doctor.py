"""What `devboxfs doctor` says to do about each thing that can stand in the way."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest

from devboxfs import doctor
from sealos_devbox import (
    Arrears,
    BoxStateError,
    ConnectError,
    DeadlineExceededError,
    DevboxConfig,
    DevboxError,
)
from sealos_devbox._transport.kube.pods import _why_not
from sealos_devbox._transport.kube.refusals import refusal, upgrade_refusal
from sealos_devbox._transport.shell.probe import probe
from sealos_devbox._transport.shell.runner import ShellOutput
from tests.fakes.exec_server import (
    Answer,
    Received,
    answer_json,
    exec_server,
    kubeconfig,
    status,
)


def refused(code: int, message: str) -> DevboxError:
    body = httpx.Response(code, json={"kind": "Status", "message": message})
    return refusal(body, body.content, None)


def not_upgraded() -> DevboxError:
    answer = httpx.Response(426, text="<html>", headers={"Server": "nginx"})
    return upgrade_refusal(answer, answer.content, None)


def evicted() -> DevboxError:
    status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource"}
    pod = {"metadata": {"name": "my-box"}, "status": status}
    return _why_not([pod], "ns-test", "my-box", None, None)


CASES = {
    "an expired token": (refused(401, "Unauthorized"), "fetch a new one"),
    "a missing verb": (
        refused(403, 'pods "my-box" is forbidden: cannot create resource "pods/exec"'),
        "a role that has this right",
    ),
    "arrears": (
        refused(403, 'admission webhook "debt" denied the request: 40001: account in debt'),
        "topped up",
    ),
    "payment required": (refused(402, "outstanding payment"), "topped up"),
    "a quota": (refused(403, "pods is forbidden: exceeded quota: quota-ns"), "Ask for less"),
    "a pod that was put out": (evicted(), "in arrears"),
    "a proxy that cannot upgrade": (not_upgraded(), "proxy_set_header Upgrade"),
    "a blocked port": (ConnectError("The API server cannot be reached."), "firewall"),
    "a server that is silent": (DeadlineExceededError("It did not answer."), "firewall"),
    "a box that does not run": (BoxStateError("The box is Pending."), "box list"),
    "anything else": (DevboxError("nonsense"), "tell who runs the service"),
}


@pytest.mark.parametrize("what", CASES)
def test_each_failure_says_what_to_do(what):
    error, advice = CASES[what]
    check = doctor.failed("helper", error)
    assert check.state == "failed"
    assert str(error) in check.text
    assert advice in check.advice


@pytest.mark.parametrize(
    ("found", "said", "advice"),
    [
        (Arrears("SuspendCompleted"), "is in arrears: it is marked 'SuspendCompleted'", "Top"),
        (Arrears("", no_pods=True), "is in arrears: a quota of nothing keeps boxes from", "Top"),
        (Arrears("Suspend", no_pods=True), "marked 'Suspend', and a quota of nothing", "Top"),
        (Arrears("FinalDeletion"), "what is in it is being removed", "Ask who runs the service"),
    ],
)
def test_arrears_are_named(found, said, advice):
    check = doctor.arrears(found)
    assert (check.name, check.state) == ("arrears", "warning")
    assert said in check.text
    assert check.advice.startswith(advice)


@pytest.mark.parametrize("readable", [True, False])
async def test_arrears_are_asked_for(readable):
    def respond(request: Received) -> Answer:
        if request.path.endswith("/devboxes"):
            return answer_json({"items": []})
        if readable and request.path.endswith("/resourcequotas/debt-limit0"):
            return answer_json({"metadata": {"name": "debt-limit0"}})
        return status(403, "forbidden", "Forbidden")

    async with exec_server() as server:
        server.respond = respond
        config = DevboxConfig(api_key=kubeconfig(server.url, token="secret"))
        found = await doctor.examine(config, None, lambda check: None)
    names = [check.name for check in found.checks]
    assert "authentication" in names
    assert ("arrears" in names) is readable


async def test_missing_tools_are_named():
    class Bare:
        max_data = 1 << 20
        streams = False

        async def run(self, script, data=b"", *, timeout=60.0):
            words = (b"/w", b"0", b"0", b"0", b"022", b"box", b"1", b"b", b"1", b"gnu", b"dd tar ")
            lines = [b"//devbox//=" + word for word in words]
            return ShellOutput(0, b"\n".join([*lines, b"4096 4096 1 1 1 1 1 255", b""]), b"")

    with pytest.raises(ConnectError, match="the box lacks dd") as caught:
        await probe(Bare())
    assert "coreutils" in doctor.failed("exec", caught.value).advice


@contextmanager
def service(seconds_ahead: float | None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(404)
            if seconds_ahead is not None:
                now = email.utils.formatdate(time.time() + seconds_ahead, usegmt=True)
                self.send_header("Date", now)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("ahead", "said"),
    [(3600, "3600 s behind"), (-3600, "3600 s ahead"), (0, None), (None, None)],
)
async def test_a_clock_that_differs_from_the_service(ahead, said):
    with service(ahead) as address:
        check = await doctor.service_clock(address, None)
    if said is None:
        assert check is None
        return
    assert check is not None
    assert (check.name, check.state) == ("clock", "warning")
    # The seconds that the test itself takes are not told apart.
    assert said.split()[1:] == check.text.split(" is ")[1].split()[1:3]
    assert 3590 < abs(check.figures["seconds"]) < 3610
    assert "NTP" in check.advice


async def test_a_service_that_is_not_there_says_nothing_of_the_time():
    assert await doctor.service_clock("http://127.0.0.1:1", None) is None
