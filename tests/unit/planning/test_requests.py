"""Sizes, ports, variables, names, addresses, waits: what is checked before a request."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealos_devbox import ConfigurationError, EnvVar, Port, PortRequest, SecretRef, TemplateMatch
from sealos_devbox._planning import bodies
from sealos_devbox._planning.addresses import agent_address, checked_endpoint
from sealos_devbox._planning.metrics import shared_with, step_text
from sealos_devbox._planning.names import check_box_name, made_name
from sealos_devbox._planning.quantities import (
    GIB,
    MIB,
    check_resources,
    parse_cpu,
    parse_size,
    shown_size,
    storage_quantity,
)
from sealos_devbox._planning.requested import env_variables, kept_ports, port_requests
from sealos_devbox._planning.retry import RetryPolicy, TokenBucket, retry_after_seconds
from sealos_devbox._planning.spec import BoxRequest, BoxSpec

# ------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(("given_", "cores"), [(0.5, 0.5), ("500m", 0.5), ("2", 2), (" 1.5 ", 1.5)])
def test_cores(given_: float | str, cores: float) -> None:
    assert parse_cpu(given_) == cores


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), "", "1 core", "2Gi", "-1"])
def test_what_is_no_number_of_cores(wrong: float | str) -> None:
    with pytest.raises(ValueError, match="cores"):
        parse_cpu(wrong)


@pytest.mark.parametrize(
    ("given_", "size"),
    [
        (2 * GIB, 2 * GIB),
        ("2Gi", 2 * GIB),
        ("2 GiB", 2 * GIB),
        ("512Mi", 512 * MIB),
        ("1.5Gi", 1536 * MIB),
        ("2G", 2 * 10**9),
        ("4194304", 4 * MIB),
    ],
)
def test_sizes(given_: int | str, size: int) -> None:
    assert parse_size(given_) == size


def test_a_size_in_the_wrong_unit_is_guessed_at_and_refused() -> None:
    with pytest.raises(ValueError, match="did you mean '2Gi'"):
        parse_size(2)
    with pytest.raises(ValueError, match="in bytes"):
        parse_size(2048)
    for wrong in ("", "lots", "-2Gi", "2Xi"):
        with pytest.raises(ValueError, match="is no size"):
            parse_size(wrong)


@given(st.integers(1, 2**45))
def test_a_storage_quantity_is_that_size(size: int) -> None:
    text = storage_quantity(size)
    if size >= MIB:
        assert parse_size(text) == size
    assert shown_size(size)


def test_choices_of_the_service() -> None:
    for cpu, memory in ((0.1, round(0.1 * GIB)), (16, 32 * GIB), (1, GIB // 2), (None, None)):
        check_resources(cpu, memory, any_value=False)
    check_resources(3, 3 * GIB, any_value=True)
    with pytest.raises(ValueError, match=r"2 cores and 4 cores are the nearest of: 0\.1 cores"):
        check_resources(3, None, any_value=False)
    with pytest.raises(ValueError, match="32Gi is the nearest"):
        check_resources(None, 64 * GIB, any_value=False)
    with pytest.raises(ValueError, match="between"):
        check_resources(None, 64 * GIB, any_value=True)
    # 0.1 GiB is no whole number of bytes, nor of MiB.
    assert bodies.v1_resource(0.1, parse_size("102Mi")) == {"cpu": 0.1, "memory": 0.1}


# ------------------------------------------------------------------------------- ports, variables


def test_ports() -> None:
    assert port_requests([80, PortRequest(90, "ws")]) == (PortRequest(80), PortRequest(90, "ws"))
    for wrong in ([0], [65536], [True], [80, 80], [PortRequest(1, "tcp")]):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"is no|twice"):
            port_requests(wrong)  # type: ignore[arg-type]


def test_a_port_that_is_there_keeps_its_name_and_takes_the_new_settings() -> None:
    there = Port(80, "http", public=True, name="port-a", public_url="https://a")
    kept = kept_ports([there], [PortRequest(80, "ws", public=False), PortRequest(81)])
    assert bodies.v1_ports(kept) == [
        {"number": 80, "protocol": "WS", "exposesPublicDomain": False, "portName": "port-a"},
        {"number": 81, "protocol": "HTTP", "exposesPublicDomain": True},
    ]


def test_variables() -> None:
    secret = EnvVar("KEY", secret=SecretRef("s", "k"))
    assert bodies.env_items(env_variables([EnvVar("A", "1"), secret])) == [
        {"name": "A", "value": "1"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    for wrong in ({"": "x"}, {"1A": "x"}, {"A": ""}, [EnvVar("A")], [secret, secret]):
        with pytest.raises(ValueError, match=r"variable|empty"):
            env_variables(wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ bodies


def spec(**values: object) -> BoxSpec:
    match = TemplateMatch("x", str(values.pop("runtime", "python")), exact=True)
    return BoxSpec("mybox", match, **{"cpu": 1.0, "memory": 2 * GIB, **values})  # type: ignore[arg-type]


def test_bodies_of_the_older_lineage() -> None:
    assert bodies.flat_create(spec(runtime="node.js", storage=30 * GIB)) == {
        "name": "mybox",
        "runtimeName": "Node.js",
        "cpu": 1000,
        "memory": 2048,
        "storage": 30,
    }
    assert "env" not in bodies.old_create(spec(env=(EnvVar("A", "1"),)))
    assert bodies.old_create(spec(storage=30 * GIB))["resource"]["storage"] == 30


def test_v2_takes_what_its_closed_list_has() -> None:
    assert bodies.v2_takes(spec())
    assert not bodies.v2_takes(spec(runtime="hugo"))
    assert not bodies.v2_takes(spec(autostart=True))  # accepted there, and not acted on


def test_patches_of_the_custom_resource() -> None:
    assert bodies.storage_patch(20 * GIB) == {"spec": {"storageLimit": "20Gi"}}
    assert bodies.env_patch([EnvVar("A", "1")]) == {
        "spec": {"config": {"env": [{"name": "A", "value": "1"}]}}
    }


def test_a_request_for_nothing_but_a_box() -> None:
    assert BoxRequest().is_plain
    assert not BoxRequest(cpu=1).is_plain
    assert BoxRequest(language="go").spec("mybox", ["go"]).memory == 2 * GIB


# ------------------------------------------------------------------------------- names, addresses


def test_names() -> None:
    check_box_name("my-box-1")
    for wrong, better in (
        ("My_Box", "my-box"),
        ("-a", "a"),
        ("a" * 64, "a" * 63),
        ("ä", "cannot be"),
    ):
        with pytest.raises(ValueError, match=better):
            check_box_name(wrong)
    name = made_name("node.js", bytes(range(8)))
    check_box_name(name)
    assert name.startswith("nodejs")
    assert "-" not in name
    check_box_name(made_name("", b"12345678"))


@pytest.mark.parametrize(
    ("given_", "endpoint"),
    [
        ("https://devbox.usw.sealos.io", "https://devbox.usw.sealos.io"),
        ("devbox.usw.sealos.io/", "https://devbox.usw.sealos.io"),
        ("https://devbox.usw.sealos.io/api/v1/", "https://devbox.usw.sealos.io"),
        ("https://devbox.usw.sealos.io/v1", "https://devbox.usw.sealos.io"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://localhost:1", "http://localhost:1"),
    ],
)
def test_endpoints(given_: str, endpoint: str) -> None:
    assert checked_endpoint(given_) == endpoint


@pytest.mark.parametrize(
    "wrong",
    [
        "http://devbox.usw.sealos.io",
        "http://127.0.0.1.evil.example",
        "ftp://a",
        "https://",
        "https://me:pass@a",
        "https://a?x=1",
        "https://a:port",
    ],
)
def test_what_is_no_endpoint(wrong: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        checked_endpoint(wrong)
    assert "pass" not in str(caught.value).replace("password", "")


def test_agents() -> None:
    endpoint = "https://devbox.usw.sealos.io"
    assert agent_address(endpoint, "a-b-cdef") == "https://devbox-a-b-cdef-agent.usw.sealos.io"
    assert agent_address("http://127.0.0.1:1", "a-b") == "http://127.0.0.1:1/box/a-b/agent"


# ---------------------------------------------------------------------------------------- metrics


def test_boxes_that_the_service_does_not_tell_apart() -> None:
    others = ["my-box", "my-other", "mybox", "your-box", "my"]
    assert shared_with("my-box", others) == ("my", "my-other", "mybox")
    assert shared_with("my", others) == ("my-box", "my-other", "mybox")
    assert shared_with("your-box", others) == ()
    assert (step_text(60), step_text(0.5), step_text(1.5)) == ("60s", "500ms", "1500ms")


# ------------------------------------------------------------------------------------------ waits


def wait(attempt: int, outcome: str, **values: object) -> float | None:
    settings = {"status": None, "repeatable": True, "left": 100.0, "random": 0.5, **values}
    return RetryPolicy().wait(attempt, outcome, **settings)  # type: ignore[arg-type]


def test_waits_grow_and_end() -> None:
    assert [wait(attempt, "broken") for attempt in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, None]
    assert wait(1, "broken", random=0.0) == 0.25
    assert wait(1, "broken", random=1.0) == 0.75
    assert wait(2, "broken", left=0.9) is None


def test_what_may_be_repeated() -> None:
    for repeatable in (True, False):
        assert wait(1, "not-sent", repeatable=repeatable) is not None
        assert wait(1, "answered", status=429, repeatable=repeatable) is not None
        assert (wait(1, "broken", repeatable=repeatable) is not None) is repeatable
        for status in (408, 500, 502, 503, 504):
            again = wait(1, "answered", status=status, repeatable=repeatable)
            assert (again is not None) is repeatable
        for status in (200, 400, 401, 403, 404, 409, 422, 501):
            assert wait(1, "answered", status=status, repeatable=repeatable) is None


def test_retry_after() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    later = (now + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert retry_after_seconds("7", now) == 7
    assert retry_after_seconds(later, now) == 90
    assert retry_after_seconds("Thu, 01 Jan 1970 00:00:00 GMT", now) == 0
    for nothing in (None, "", "soon", "-1"):
        assert retry_after_seconds(nothing, now) is None
    assert (wait(1, "answered", status=429, retry_after=7.0) or 0) >= 7
    assert wait(1, "answered", status=429, retry_after=700.0) is None


@given(st.lists(st.floats(0, 2), max_size=200))
def test_the_bucket_never_lets_more_through_than_it_may(gaps: list[float]) -> None:
    bucket, now, used = TokenBucket(10, burst=5), 0.0, []
    for gap in gaps:
        now += gap
        used.append(now + bucket.take(now))
    for index, first in enumerate(used):
        within = [at for at in used[index:] if at <= first + 1 - 1e-6]
        assert len(within) <= 5 + 10
