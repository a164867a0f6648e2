"""Which service is meant: what the caller says, else the environment, else the embedded engine."""

from pathlib import Path

import pytest

from sealos_devbox import CapabilityError, DevboxConfig, config


def test_nothing_configured_means_the_embedded_engine_in_the_users_data_directory() -> None:
    settings = DevboxConfig().settings({})
    assert settings.data_dir.name == "devbox"
    assert settings.data_dir.is_absolute()
    assert settings.link_delay_ms == 0
    assert settings.helper is None


def test_what_the_caller_says_comes_before_the_environment() -> None:
    environment = {
        "DEVBOX_DATA_DIR": "/from/environment",
        "DEVBOX_LINK_DELAY_MS": "5",
        "DEVBOX_HELPER": "/environment/helper",
    }
    from_environment = DevboxConfig().settings(environment)
    assert from_environment.data_dir == Path("/from/environment")
    assert from_environment.link_delay_ms == 5
    assert from_environment.helper == Path("/environment/helper")
    explicit = DevboxConfig(data_dir="/explicit", link_delay_ms=0, helper="/x").settings(
        environment
    )
    assert explicit.data_dir == Path("/explicit")
    assert explicit.link_delay_ms == 0
    assert explicit.helper == Path("/x")


def test_directories_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert DevboxConfig(data_dir="x").settings({}).data_dir == tmp_path / "x"
    assert DevboxConfig(data_dir="~/x").settings({}).data_dir == Path("/home/somebody/x")


@pytest.mark.parametrize(
    "variable",
    ["DEVBOX_ENDPOINT", "DEVBOX_API_URL", "DEVBOX_KUBECONFIG", "DEVBOX_PROFILE", "KUBECONFIG"],
)
def test_another_service_is_an_error_unless_the_embedded_engine_is_asked_for(variable: str) -> None:
    environment = {variable: "something"}
    with pytest.raises(CapabilityError, match=variable) as caught:
        DevboxConfig().settings(environment)
    for way in ("embedded=True", "--embedded", "DEVBOX_EMBEDDED=1"):
        assert way in caught.value.hint
    assert not caught.value.retryable
    DevboxConfig(embedded=True).settings(environment)
    DevboxConfig().settings({**environment, "DEVBOX_EMBEDDED": "1"})


def test_an_empty_variable_is_as_good_as_none() -> None:
    empty = dict.fromkeys(
        ("KUBECONFIG", "DEVBOX_EMBEDDED", "DEVBOX_DATA_DIR", "DEVBOX_LINK_DELAY_MS"), ""
    )
    assert DevboxConfig().settings(empty) == DevboxConfig().settings({})


def test_the_embedded_engine_can_be_ruled_out() -> None:
    with pytest.raises(CapabilityError, match="ruled out"):
        DevboxConfig(embedded=False).settings({})
    with pytest.raises(CapabilityError, match="ruled out"):
        DevboxConfig().settings({"DEVBOX_EMBEDDED": "0"})
    DevboxConfig(embedded=True).settings({"DEVBOX_EMBEDDED": "0"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DEVBOX_EMBEDDED", "maybe"),
        ("DEVBOX_LINK_DELAY_MS", "fast"),
        ("DEVBOX_LINK_DELAY_MS", "-1"),
        ("DEVBOX_LINK_DELAY_MS", "nan"),
        ("DEVBOX_LINK_DELAY_MS", "1e9"),
    ],
)
def test_values_that_make_no_sense(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        DevboxConfig().settings({variable: value})


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVBOX_EMBEDDED", "1")
    monkeypatch.setenv("DEVBOX_DATA_DIR", "/somewhere")
    assert DevboxConfig().settings().data_dir == Path("/somewhere")


def test_nothing_else_reads_the_environment() -> None:
    package = Path(config.__file__).parent
    readers = {
        path.name
        for path in package.rglob("*.py")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    }
    assert readers == {"config.py"}
