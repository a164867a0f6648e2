"""What goes wrong on the way to a control plane: repeated where it helps, and said as it is."""

import datetime
import logging
import ssl
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
import trustme

import sealos_devbox
from sealos_devbox import (
    AccessDeniedError,
    AsyncDevbox,
    AuthenticationError,
    BoxState,
    ConfigurationError,
    ConnectError,
    DeadlineExceededError,
    DevboxConfig,
    DevboxError,
    InvalidRequestError,
    ProtocolError,
    QuotaExceededError,
    RateLimitedError,
    ServerError,
    Timeouts,
    TransportError,
)
from sealos_devbox._planning import kubeconfig
from tests.contract.control import client, control_plane
from tests.fakes.control_documents import (
    AGENT_TOKEN,
    HTML_ERROR,
    KUBECONFIG,
    PEM,
    TOKEN,
    Reply,
    envelope,
)
from tests.fakes.control_plane import ControlPlane
from tests.fakes.control_serving import serving

pytestmark = pytest.mark.usefixtures("quick")
DETAIL = "/api/v1/devbox/mybox"


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with control_plane() as plane:
        plane.add("mybox")
        yield plane


@pytest.fixture
async def devbox(plane: ControlPlane) -> AsyncIterator[AsyncDevbox]:
    async with client(plane) as devbox:
        yield devbox


# ------------------------------------------------------------------------------------- repeating


@pytest.mark.parametrize(
    "reply",
    [
        HTML_ERROR,
        Reply(503, b"devbox not running", "text/plain"),
        Reply(504, None),
        envelope(500, "some text of Kubernetes", "HTTP request failed"),
        Reply(429, b"slow down", "text/plain"),
        Reply(200, {"code": 200, "data": {}}, cut=True),
        Reply(200, {"code": 200, "data": {}}, cut=True, headers={"X-Request-Id": "x"}),
    ],
    ids=["page", "text", "nothing", "envelope", "429", "cut", "cut-again"],
)
async def test_what_passes_is_not_seen(
    plane: ControlPlane, devbox: AsyncDevbox, reply: Reply
) -> None:
    await devbox.list()
    plane.fail("GET", DETAIL, reply, times=2)
    assert (await devbox.get("mybox")).info is not None


@pytest.mark.parametrize(
    ("reply", "kind", "status", "hop"),
    [
        (HTML_ERROR, ServerError, 502, "gateway"),
        (Reply(429, b"slow down", "text/plain"), RateLimitedError, 429, "gateway"),
        (envelope(429, None, "too many"), RateLimitedError, 429, "control-plane"),
        (Reply(200, {"code": 200, "data": {}}, cut=True), TransportError, None, "gateway"),
        (envelope(500, "x", "HTTP request failed"), ServerError, 500, "control-plane"),
    ],
)
async def test_what_does_not_pass(
    plane: ControlPlane, devbox: AsyncDevbox, reply: Reply, kind: type, status: int, hop: str
) -> None:
    await devbox.list()
    plane.fail("GET", DETAIL, reply, times=100)
    before = len(plane.requests)
    with pytest.raises(kind) as caught:
        await devbox.get("mybox")
    assert (caught.value.status, caught.value.hop) == (status, hop)
    assert caught.value.retryable
    assert caught.value.request_id
    assert 4 <= len(plane.requests) - before <= 6
    ids = {one["x-request-id"] for one in plane.headers[before : before + 4]}
    assert len(ids) == 1  # one name for all attempts


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(200, b"<html>login</html>", "text/html"), ProtocolError),
        (Reply(302, None, headers={"Location": "https://evil.example"}), ProtocolError),
        (Reply(200, b"[1, 2", "application/json"), ProtocolError),
        (Reply(200, {"hello": 1}), ProtocolError),
        (Reply(431, b"too large", "text/plain"), InvalidRequestError),
        (envelope(400, None, "quota: exceeded quota: debt-limit0"), QuotaExceededError),
        (envelope(403, None, "insufficient_permissions", "x"), AccessDeniedError),
    ],
)
async def test_what_is_not_repeated(
    plane: ControlPlane, devbox: AsyncDevbox, reply: Reply, kind: type
) -> None:
    await devbox.list()
    plane.fail("GET", DETAIL, reply, times=100)
    before = len(plane.requests)
    with pytest.raises(kind):
        await devbox.get("mybox")
    assert len([path for _, path, _ in plane.requests[before:] if path == DETAIL]) == 1


@pytest.mark.slow
async def test_retry_after_is_honoured(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    await devbox.list()
    plane.fail("GET", DETAIL, Reply(429, None, headers={"Retry-After": "1"}))
    before = anyio.current_time()
    await devbox.get("mybox")
    assert anyio.current_time() - before >= 1
    # Longer than there is time: said at once.
    plane.fail("GET", DETAIL, Reply(503, None, headers={"Retry-After": "3600"}))
    with pytest.raises(ServerError):
        await devbox.get("mybox")


async def test_changes_are_repeated_only_where_that_is_safe(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    box = await devbox.get("mybox")
    plane.fail("POST", ".*/pause", HTML_ERROR, times=2)
    await box.pause()
    assert len(plane.sent("POST", ".*/pause")) == 3
    plane.fail("POST", ".*/release", HTML_ERROR)
    with pytest.raises(ServerError):
        await box.releases.create("v1")
    assert len(plane.sent("POST", ".*/release")) == 1
    plane.fail("POST", ".*/release", Reply(429, None), times=2)  # not carried out
    await box.releases.create("v1")
    assert len(plane.sent("POST", ".*/release")) == 4


# ------------------------------------------------------------------------------------- deadlines


async def test_a_body_that_stands_still(plane: ControlPlane) -> None:
    async with client(plane, timeouts=Timeouts(idle=0.1, request=5, total=5)) as devbox:
        await devbox.list()
        plane.fail("GET", DETAIL, Reply(200, {"code": 200}, slow=1), times=4)
        with pytest.raises(TransportError, match=r"nothing came for 0\.1 s"):
            await devbox.get("mybox")


async def test_a_request_that_takes_too_long(plane: ControlPlane) -> None:
    async with client(plane, timeouts=Timeouts(idle=5, request=0.1, total=5)) as devbox:
        await devbox.templates()
        plane.fail("GET", DETAIL, Reply(200, {"code": 200}, slow=1), times=4)
        with pytest.raises(TransportError, match=r"no answer within 0\.1 s"):
            await devbox.get("mybox")


@pytest.mark.slow
async def test_one_deadline_over_all_attempts(plane: ControlPlane) -> None:
    async with client(plane, timeouts=Timeouts(idle=5, request=5, total=0.5)) as devbox:
        await devbox.list()
        plane.fail("GET", DETAIL, Reply(200, {"code": 200}, slow=2), times=4)
        with pytest.raises(DeadlineExceededError, match=r"0\.5 s") as caught:
            await devbox.get("mybox")
        assert (caught.value.code, caught.value.hop) == ("deadline-exceeded", "control-plane")
        assert caught.value.request_id


async def test_nobody_there() -> None:
    plane = ControlPlane()
    with serving(plane):
        pass  # the port is free again
    async with client(plane) as devbox:
        with pytest.raises(ConnectError) as caught:
            await devbox.list()
        assert (caught.value.hop, caught.value.retryable) == ("gateway", True)


@pytest.mark.slow
async def test_requests_are_limited(plane: ControlPlane) -> None:
    async with client(plane, requests_per_second=20) as devbox:
        before = anyio.current_time()
        for _ in range(30):
            await devbox.list()
        assert anyio.current_time() - before > 0.4


async def test_a_cancelled_call_leaves_the_client_usable(plane: ControlPlane) -> None:
    async with client(plane) as devbox:
        await devbox.list()
        plane.fail("GET", DETAIL, Reply(200, {"code": 200}, slow=1))
        with anyio.move_on_after(0.05):
            await devbox.get("mybox")
        assert (await devbox.get("mybox")).name == "mybox"


# ------------------------------------------------------------------------------------------- TLS


async def test_a_certificate_that_is_not_trusted_or_has_expired(tmp_path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for issued, expected in (
        (authority.issue_cert("127.0.0.1"), ""),
        (authority.issue_cert("127.0.0.1", not_after=past), "expired"),
        (authority.issue_cert("127.0.0.2"), "mismatch"),
        (trustme.CA().issue_cert("127.0.0.1"), "unable to get local issuer|self.signed"),
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        plane = ControlPlane()
        with serving(plane, context):
            async with client(plane, ca_file=tmp_path / "ca.pem") as devbox:
                if not expected:
                    assert await devbox.list() == []
                    continue
                with pytest.raises(ConnectError, match=expected) as caught:
                    await devbox.list()
                assert (caught.value.code, caught.value.retryable) == ("certificate", False)
                assert "ca_file" in caught.value.hint
        assert not plane.requests


async def test_a_credential_is_not_sent_in_the_clear() -> None:
    async with AsyncDevbox(
        DevboxConfig(api_url="http://devbox.example.com", api_key=KUBECONFIG)
    ) as devbox:
        with pytest.raises(ConfigurationError, match="in the clear"):
            await devbox.list()


# ------------------------------------------------------------------------------------ credentials


async def test_a_minimal_kubeconfig_with_the_right_context_first(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    """The service takes the namespace of the first context: the fake answers 500 to another."""
    assert len(await devbox.list()) == 1
    sent = plane.headers[0]["authorization"]
    assert len(sent) < 1000 < len(KUBECONFIG)
    assert not sent.startswith("Bearer")


async def test_context_says_which(plane: ControlPlane) -> None:
    async with client(plane, context="other") as devbox:
        with pytest.raises(AuthenticationError):
            await devbox.list()
    async with client(plane, context="nobody") as devbox:
        with pytest.raises(ConfigurationError, match="it has: other, mine"):
            await devbox.list()


@pytest.mark.parametrize("lineage", ["M", "R"])
async def test_a_bad_credential_that_looks_like_a_crash(lineage: str) -> None:
    """Listing answers 500 to it; other routes say what it is."""
    with control_plane(lineage) as plane:
        plane.token = "another"
        async with client(plane) as devbox:
            with pytest.raises((AuthenticationError, ServerError)) as caught:
                await devbox.list()
            said = f"{caught.value} {caught.value.hint}"
            assert "credential" in said
            assert caught.value.hop == "control-plane"
            if lineage == "M":
                assert isinstance(caught.value, AuthenticationError)
                assert caught.value.status == 403


async def test_a_token_and_an_encoded_kubeconfig_are_taken_too(plane: ControlPlane) -> None:
    for key in (TOKEN, kubeconfig.header_value(KUBECONFIG)):
        async with client(plane, api_key=key) as devbox:
            assert [box.name for box in await devbox.list()] == ["mybox"]


async def test_a_kubeconfig_that_was_renewed_is_read_again(plane: ControlPlane, tmp_path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG.replace(TOKEN, "an-old-token"))
    async with client(plane, api_key=None, kubeconfig=path) as devbox:
        with pytest.raises(AuthenticationError):
            await devbox.list()
        path.write_text(KUBECONFIG)
        assert [box.name for box in await devbox.list()] == ["mybox"]


async def test_an_address_that_is_no_control_plane() -> None:
    with control_plane() as plane:
        page = Reply(404, b"<html>not here</html>", "text/html")
        plane.fail("GET", ".*", page, times=10)
        async with client(plane) as devbox:
            with pytest.raises(ProtocolError, match="no Devbox control plane") as caught:
                await devbox.list()
            assert "https://devbox.<domain>" in caught.value.hint


# ---------------------------------------------------------------------------------------- secrets


def frames_of_the_package(error: BaseException) -> list[str]:
    """What a reporter of crashes would show: every frame of ours with its local variables."""
    package = str(Path(sealos_devbox.__file__).parent)
    frames = traceback.walk_tb(error.__traceback__)
    ours = [one for one in frames if one[0].f_code.co_filename.startswith(package)]
    assert len(ours) > 3
    return traceback.StackSummary.extract(iter(ours), capture_locals=True).format()


@pytest.mark.slow
async def test_no_credential_is_seen_at_debug_level(
    plane: ControlPlane, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    logging.getLogger("hpack").setLevel(logging.NOTSET)
    config = DevboxConfig(api_url=plane.address, api_key=KUBECONFIG, requests_per_second=1000)
    with caplog.at_level(logging.DEBUG):
        async with AsyncDevbox(config) as devbox:
            box = await devbox.create("other", runtime="python")
            seen += [repr(config), repr(devbox), repr(box), repr(box.info), repr(await box.ssh())]
            seen += [repr(await devbox._service.target(box._record))]  # type: ignore[attr-defined]
            for reply in (
                # A gateway that quotes the request; Kubernetes that quotes the token.
                Reply(
                    400, f"bad header {plane.headers[0]['authorization']}".encode(), "text/plain"
                ),
                envelope(500, f"token {TOKEN} has expired", "HTTP request failed"),
                Reply(200, f"[{TOKEN}".encode(), "application/json"),
                Reply(200, {"code": 200}, cut=True),
            ):
                plane.fail("GET", "/api/v1/devbox/other", reply, times=4)
                try:
                    await devbox.get("other")
                except DevboxError as error:
                    seen += [str(error), repr(error), error.hint]
                    seen += frames_of_the_package(error)
                else:
                    pytest.fail("no error")
                plane.faults.clear()
            plane.token = "another"
            with pytest.raises(DevboxError) as caught:
                await devbox.list()
            seen += traceback.format_exception(caught.value)
            await box.aclose()
    seen += [record.getMessage() for record in caplog.records]
    seen += [str(record.args) for record in caplog.records]
    seen += list(capfd.readouterr())
    text = "\n".join(seen)
    assert "GET /api/v1/devbox/other: 200" in text
    for secret in (TOKEN, AGENT_TOKEN, PEM, "ZmFrZQ==", "the-token-of-the-test", "eyJhbGci"):
        assert secret not in text
        assert kubeconfig.quote(secret, safe="") not in text


async def test_one_line_for_each_request(
    plane: ControlPlane, devbox: AsyncDevbox, caplog: pytest.LogCaptureFixture
) -> None:
    await devbox.list()
    caplog.clear()
    plane.fail("GET", "/api/v1/devbox", HTML_ERROR)
    with caplog.at_level(logging.DEBUG, "sealos_devbox"):
        await devbox.list()
    lines = [one.getMessage() for one in caplog.records if one.name.endswith("control.http")]
    assert len(lines) == 2
    assert "GET /api/v1/devbox: 502" in lines[0]
    assert "attempt 1" in lines[0]
    assert "GET /api/v1/devbox: 200" in lines[1]
    assert "attempt 2" in lines[1]


# ---------------------------------------------------------------------------------- the older one


async def test_the_older_lineage() -> None:
    """HTTP 200 for everything, flat routes, no agent: the caller does not see it."""
    with control_plane("R") as plane:
        async with client(plane) as devbox:
            box = await devbox.create("mybox", runtime="node", ports=[8000], wait=False)
            assert plane.sent("POST", "/api/v1/devbox/create") == [
                {"name": "mybox", "runtimeName": "Node.js", "cpu": 1000, "memory": 2048}
            ]
            info = await box.refresh()
            assert (info.state, info.resources.cpu, info.resources.memory) == (
                BoxState.RUNNING,
                1,
                2 * 1024**3,
            )
            assert info.ssh is not None
            assert info.ssh.command == "ssh -p 30022 devbox@old.sealos.io"
            assert [port.number for port in info.ports] == [8000]
            python = await devbox.create("other", runtime="python", ports=[80], wait=False)
            assert plane.sent("POST", "/api/v1/devbox")[0]["runtime"] == "python"
            assert [one.name for one in await devbox.list()] == ["mybox", "other"]
            await box.pause()
            await box.restart()
            assert plane.boxes["mybox"].phase == "Running"
            await box.close_port(8000)
            assert await box.ports() == []
            assert (await box.pods())[0].node == "n"
            found = await box.metrics()
            assert [sample.cpu_percent for sample in found.samples] == [12.5, 50.0]
            await box.releases.create("v1", stop_box=True)
            assert [one.tag for one in await box.releases.list()] == ["v1"]
            assert (await box.health()).agent == "none"
            await python.delete()
            with pytest.raises(DevboxError) as caught:
                await devbox.get("other")
            # HTTP said 200: the status is what the body says.
            assert (caught.value.code, caught.value.status) == ("box-not-found", 404)
            plane.fail("GET", ".*/list", Reply(200, envelope(500, None, "oops").body), times=9)
            with pytest.raises(ServerError) as failed:
                await devbox.list()
            assert failed.value.status == 500
            assert len(plane.sent("GET", ".*/list")) > 4
