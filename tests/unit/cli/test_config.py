import dataclasses
import os
from pathlib import Path

import pytest

from devboxfs import cli
from devboxfs.config import EXIT_CODES, ExitCode, MountConfig, MountError, Places, parse_size


@pytest.mark.parametrize("name", ["a", "my-box", "0", "a" * 63])
def test_names_of_boxes(config, name):
    assert dataclasses.replace(config, name=name).name == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "a" * 64, "a\n", "a,allow_other", "ä"]
)
def test_what_is_no_name_of_a_box(config, name):
    with pytest.raises(MountError, match="is not the name of a box") as caught:
        dataclasses.replace(config, name=name)
    assert caught.value.exit_code == ExitCode.NO_BOX


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mountpoint", Path("mnt")),
        ("state_dir", Path("state")),
        ("timeout", 0.0),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("cache_size", 1),
        ("journal_limit", -1),
    ],
)
def test_values_that_make_no_sense(config, field, value):
    with pytest.raises(MountError) as caught:
        dataclasses.replace(config, **{field: value})
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_config_survives_its_journey_to_the_daemon(config):
    odd = Path(os.fsdecode(b"/tmp/\xff\n\"'"))
    for one in (config, dataclasses.replace(config, mountpoint=odd, log_file=odd, debug=True)):
        line = one.to_json()
        assert "\n" not in line
        assert line.isascii()
        assert MountConfig.from_json(line) == one


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("512M", 512 << 20),
        ("8G", 8 << 30),
        ("8GiB", 8 << 30),
        ("8gb", 8 << 30),
        ("1.5k", 1536),
        (" 2 T ", 2 << 40),
        ("7B", 7),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "1X", "1.5.2", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_places(monkeypatch, tmp_path):
    for variable in ("DEVBOX_DATA_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("DEVBOX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DEVBOX_CACHE_DIR", "relative")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/mine")
    places = Places.from_environment()
    assert places.data == Path("/home/someone/.local/share/devbox")
    assert places.cache == Path.cwd() / "relative"
    assert places.runtime == (
        Path("/run/mine/devboxfs"),
        Path(f"/run/user/{os.getuid()}/devboxfs"),
        tmp_path / "state" / "run",
    )


def test_the_table_of_exit_codes_is_the_one_in_the_documentation():
    assert set(EXIT_CODES) == set(ExitCode)
    lines = [line.split(maxsplit=1) for line in (cli.__doc__ or "").splitlines()]
    table = {int(line[0]): line[1] for line in lines if line and line[0].isdigit()}
    assert table == {int(code): meaning for code, meaning in EXIT_CODES.items()}


def test_fuse_options(config):
    assert "allow_other" not in config.fuse_options
    assert {"fsname=devbox:my-box", "subtype=devboxfs", "nosuid", "nodev"} < config.fuse_options
    assert "allow_other" in dataclasses.replace(config, allow_other=True).fuse_options
