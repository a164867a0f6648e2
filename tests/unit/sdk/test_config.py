"""Which service is meant: the first that says something decides, and the rest is looked up."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from sealos_devbox import (
    CapabilityError,
    ConfigurationError,
    DevboxConfig,
    Secret,
    Timeouts,
    config,
    config_file,
    read_profiles,
    write_profile,
)
from sealos_devbox.config import EmbeddedSettings, RemoteSettings, Settings

PROFILES = """
default_profile = "work"

[profiles.work]
endpoint = "https://devbox.work.example"
kubeconfig = "/work.yaml"
transport = "exec"
idle_timeout = 7
x-vault-path = "secret/devbox"

[profiles.play]
embedded = true
data_dir = "/play"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(PROFILES)
    return path


def embedded(settings: Settings) -> EmbeddedSettings:
    assert isinstance(settings, EmbeddedSettings)
    return settings


def remote(settings: Settings) -> RemoteSettings:
    assert isinstance(settings, RemoteSettings)
    return settings


@pytest.fixture
def nothing(tmp_path: Path) -> dict[str, str]:
    """An environment in which the user's own profiles are not seen."""
    return {"DEVBOX_CONFIG": str(tmp_path / "no-such-file.toml")}


# ------------------------------------------------------------------------------ the embedded engine


def test_nothing_configured_means_the_embedded_engine_in_the_users_data_directory(
    nothing: dict[str, str],
) -> None:
    settings = embedded(DevboxConfig().settings(nothing))
    assert settings.data_dir.name == "devbox"
    assert settings.data_dir.is_absolute()
    assert settings.link_delay_ms == 0
    assert settings.helper is None
    assert settings.reason == "nothing else is configured"


def test_what_the_caller_says_comes_before_the_environment(nothing: dict[str, str]) -> None:
    environment = {
        **nothing,
        "DEVBOX_DATA_DIR": "/from/environment",
        "DEVBOX_LINK_DELAY_MS": "5",
        "DEVBOX_HELPER": "/environment/helper",
    }
    from_environment = embedded(DevboxConfig().settings(environment))
    assert from_environment.data_dir == Path("/from/environment")
    assert from_environment.link_delay_ms == 5
    assert from_environment.helper == Path("/environment/helper")
    explicit = embedded(
        DevboxConfig(data_dir="/explicit", link_delay_ms=0, helper="/x").settings(environment)
    )
    assert explicit.data_dir == Path("/explicit")
    assert explicit.link_delay_ms == 0
    assert explicit.helper == Path("/x")


def test_directories_are_made_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nothing: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = embedded(DevboxConfig(data_dir="x").settings(nothing))
    assert settings.data_dir == tmp_path / "x"
    settings = embedded(DevboxConfig(data_dir="~/x").settings(nothing))
    assert settings.data_dir == Path("/home/somebody/x")


def test_an_empty_variable_is_as_good_as_none(nothing: dict[str, str]) -> None:
    empty = dict.fromkeys(
        ("KUBECONFIG", "DEVBOX_EMBEDDED", "DEVBOX_DATA_DIR", "DEVBOX_ENDPOINT", "DEVBOX_API_KEY"),
        "",
    )
    assert DevboxConfig().settings({**nothing, **empty}) == DevboxConfig().settings(nothing)


def test_the_embedded_engine_can_be_ruled_out(nothing: dict[str, str]) -> None:
    with pytest.raises(CapabilityError, match="ruled out"):
        DevboxConfig(embedded=False).settings(nothing)
    with pytest.raises(CapabilityError, match="ruled out"):
        DevboxConfig().settings({**nothing, "DEVBOX_EMBEDDED": "0"})
    embedded(DevboxConfig(embedded=True).settings({**nothing, "DEVBOX_EMBEDDED": "0"}))


# ----------------------------------------------------------------------------- which service is it


@pytest.mark.parametrize(
    ("said", "variables", "reason"),
    [
        ({"api_url": "https://a", "api_key": "key-of-mine"}, {}, "as asked for"),
        ({"kubeconfig": "/k"}, {"DEVBOX_EMBEDDED": "1"}, "as asked for"),
        ({"api_key": "key-of-mine"}, {"DEVBOX_PROFILE": "play"}, "as asked for"),
        ({"credential_source": "vault"}, {}, "as asked for"),
        ({"profile": "work"}, {"DEVBOX_EMBEDDED": "1"}, "profile work, as asked for"),
        ({}, {"DEVBOX_ENDPOINT": "https://a"}, "as DEVBOX_ENDPOINT says"),
        ({}, {"DEVBOX_API_URL": "https://a"}, "as DEVBOX_API_URL says"),
        ({}, {"DEVBOX_KUBECONFIG": "/k", "KUBECONFIG": "/x"}, "as DEVBOX_KUBECONFIG says"),
        ({}, {"DEVBOX_PROFILE": "work"}, "profile work, as DEVBOX_PROFILE says"),
        ({}, {}, "the default profile, work"),
        ({}, {"KUBECONFIG": "/k"}, "the default profile, work"),
        ({"embedded": False}, {}, "the default profile, work"),
    ],
)
def test_another_service(
    file: Path, said: dict[str, object], variables: dict[str, str], reason: str
) -> None:
    environment = {"DEVBOX_CONFIG": str(file), "KUBECONFIG": "/k", **variables}
    settings = remote(DevboxConfig(**said).settings(environment))  # type: ignore[arg-type]
    assert settings.reason == reason


@pytest.mark.parametrize(
    ("said", "variables", "reason"),
    [
        ({"embedded": True}, {"DEVBOX_ENDPOINT": "https://a"}, "as asked for"),
        ({"profile": "play"}, {"DEVBOX_ENDPOINT": "https://a"}, "profile play, as asked for"),
        ({}, {"DEVBOX_EMBEDDED": "1", "KUBECONFIG": "/k"}, "as DEVBOX_EMBEDDED says"),
        ({}, {"DEVBOX_PROFILE": "play"}, "profile play, as DEVBOX_PROFILE says"),
    ],
)
def test_the_embedded_engine_all_the_same(
    file: Path, said: dict[str, object], variables: dict[str, str], reason: str
) -> None:
    environment = {"DEVBOX_CONFIG": str(file), **variables}
    settings = embedded(DevboxConfig(**said).settings(environment))  # type: ignore[arg-type]
    assert settings.reason == reason
    if "play" in reason:
        assert settings.data_dir == Path("/play")


def test_kubeconfig_of_the_environment_is_the_last_before_the_embedded_engine(
    nothing: dict[str, str],
) -> None:
    settings = remote(DevboxConfig().settings({**nothing, "KUBECONFIG": f"/a{os.pathsep}/b"}))
    assert settings.reason == "as KUBECONFIG says"
    assert settings.kubeconfig == (Path("/a"), Path("/b"))
    assert settings.endpoint is None


def test_contradictions_are_errors(file: Path) -> None:
    environment = {"DEVBOX_CONFIG": str(file)}
    with pytest.raises(ValueError, match="exclude"):
        DevboxConfig(embedded=True, api_url="https://a").settings(environment)
    with pytest.raises(ValueError, match="exclude"):
        DevboxConfig(embedded=True, profile="work").settings(environment)
    with pytest.raises(ValueError, match="exclude"):
        DevboxConfig(embedded=False, profile="play").settings(environment)


# -------------------------------------------------------------------------------- other settings


def test_settings_come_from_the_caller_the_environment_the_profile(file: Path) -> None:
    environment = {"DEVBOX_CONFIG": str(file)}
    settings = remote(DevboxConfig().settings(environment))
    assert settings.endpoint == "https://devbox.work.example"
    assert settings.kubeconfig == (Path("/work.yaml"),)
    assert settings.transport == "exec"
    assert settings.timeouts == Timeouts(idle=7)
    assert settings.options["x-vault-path"] == "secret/devbox"
    environment |= {"DEVBOX_TRANSPORT": "agent", "DEVBOX_IDLE_TIMEOUT": "8"}
    environment |= {"DEVBOX_KUBECONFIG": "/environment.yaml", "DEVBOX_PROFILE": "work"}
    settings = remote(DevboxConfig().settings(environment))
    assert (settings.transport, settings.timeouts.idle) == ("agent", 8)
    assert settings.kubeconfig == (Path("/environment.yaml"),)
    said = DevboxConfig(transport="helper", timeouts=Timeouts(idle=9), kubeconfig="/said.yaml")
    settings = remote(said.settings(environment))
    assert (settings.transport, settings.timeouts.idle) == ("helper", 9)
    assert settings.kubeconfig == (Path("/said.yaml"),)


def test_a_credential_in_a_file(tmp_path: Path, nothing: dict[str, str]) -> None:
    key = tmp_path / "key"
    key.write_text("the-token-of-an-engine\n")
    environment = {**nothing, "DEVBOX_API_KEY_FILE": str(key), "DEVBOX_ENDPOINT": "http://a"}
    settings = remote(DevboxConfig().settings(environment))
    assert settings.api_key == Secret("the-token-of-an-engine")
    key.write_text("")
    with pytest.raises(ConfigurationError, match="empty"):
        DevboxConfig().settings(environment)
    key.unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        DevboxConfig().settings(environment)


def test_a_service_needs_a_credential(nothing: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="no credential") as caught:
        DevboxConfig(api_url="https://devbox.example").settings(nothing)
    assert caught.value.code == "configuration"
    assert "DEVBOX_API_KEY" in caught.value.hint


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DEVBOX_EMBEDDED", "maybe"),
        ("DEVBOX_LINK_DELAY_MS", "fast"),
        ("DEVBOX_LINK_DELAY_MS", "-1"),
        ("DEVBOX_LINK_DELAY_MS", "nan"),
        ("DEVBOX_LINK_DELAY_MS", "1e9"),
        ("DEVBOX_CONNECT_TIMEOUT", "0"),
        ("DEVBOX_TOTAL_TIMEOUT", "soon"),
        ("DEVBOX_REQUESTS_PER_SECOND", "0"),
    ],
)
def test_values_that_make_no_sense(nothing: dict[str, str], variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        DevboxConfig().settings({**nothing, variable: value})


# ------------------------------------------------------------------------------------ secrets


def test_a_credential_is_not_shown() -> None:
    shown = DevboxConfig(api_url="https://a", api_key="the-token")
    assert "the-token" not in f"{shown} {shown!r} {shown.settings({})}"
    secret = Secret("the-token", "token")
    assert f"{secret} {secret!r} {[secret]}".count("the-token") == 0
    assert secret.scrub("it said: the-token!") == "it said: [secret]!"
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(secret)
    assert secret.reveal() == "the-token"


# ------------------------------------------------------------------------------------ the file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("default_profile = 1", "must be the name"),
        ("default_profile = 'nobody'", "no profile 'nobody'"),
        ("whatever = 1", "unknown setting 'whatever'"),
        ("profiles = 1", "must be a table"),
        ("[profiles]\nwork = 1", "must be a table"),
        ("[profiles.work]\nendpiont = 'x'", "unknown setting 'endpiont'"),
        ("[profiles.work]\nendpoint = 1", "wrong type"),
        ("[profiles.work]\nidle_timeout = true", "wrong type"),
        ("[profiles.work]\nx-list = []", "one value"),
        ("default_profile =", "no TOML"),
    ],
)
def test_a_file_that_cannot_be_understood(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        DevboxConfig().settings({"DEVBOX_CONFIG": str(path)})


def test_a_profile_that_does_not_exist(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="there are: play, work"):
        DevboxConfig(profile="wrok").settings({"DEVBOX_CONFIG": str(file)})


def test_a_profile_is_written_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.toml"
    write_profile(path, "work", {"endpoint": "https://a", "kubeconfig": "/k"}, default=True)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("# by hand\n" + path.read_text())
    write_profile(path, "play", {"embedded": True})
    write_profile(path, "work", {"endpoint": "https://b"})
    assert path.read_text().startswith("# by hand\n")
    found = read_profiles(path)
    assert found.default == "work"
    assert found.profiles == {"work": {"endpoint": "https://b"}, "play": {"embedded": True}}
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="unknown"):
        write_profile(path, "work", {"password": "x"})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# ------------------------------------------------------------------------------- the environment


def test_the_environment_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEVBOX_EMBEDDED", "1")
    monkeypatch.setenv("DEVBOX_DATA_DIR", "/somewhere")
    monkeypatch.setenv("DEVBOX_CONFIG", str(tmp_path / "config.toml"))
    assert embedded(DevboxConfig().settings()).data_dir == Path("/somewhere")
    assert config_file() == tmp_path / "config.toml"


def test_nothing_else_reads_the_environment() -> None:
    package = Path(config.__file__).parent
    readers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    }
    # What a kubeconfig means by the environment (proxies, programs that make credentials), and what
    # the engine hands down to the processes of a box, is not configuration.
    others = {name for name in readers if name.startswith(("_transport/kube/", "server/"))}
    assert readers - others == {"config.py"}


def test_importing_the_package_imports_no_http() -> None:
    """Files of embedded boxes need none of it, and each command line would pay for it."""
    program = """
import sys
from sealos_devbox import AsyncDevbox, DevboxConfig
AsyncDevbox(DevboxConfig(embedded=True))
print({"httpx", "yaml", "starlette", "kubernetes", "tomlkit", "platformdirs"} & set(sys.modules))
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(config.__file__).parents[1]),
            "DEVBOX_DATA_DIR": "/somewhere",
        },
    )
    assert run.stdout == "set()\n"
