import dataclasses
import os
import stat
from pathlib import Path

import pytest

from devboxfs import preflight
from devboxfs.config import ExitCode, MountError


def no_word(text: str) -> None:
    raise AssertionError(text)


def refused(config, **options) -> MountError:
    with pytest.raises(MountError) as caught:
        preflight.check(config, no_word, **options)
    return caught.value


def test_a_machine_without_fuse(config, tmp_path):
    error = refused(config, device=tmp_path / "fuse")
    assert error.exit_code == ExitCode.NO_FUSE
    assert "sudo modprobe fuse" in error.text


def test_a_device_that_is_none(config, tmp_path):
    (tmp_path / "fuse").write_text("")
    assert refused(config, device=tmp_path / "fuse").exit_code == ExitCode.NO_FUSE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
def test_a_device_that_cannot_be_opened(config, tmp_path):
    device = tmp_path / "fuse"
    try:
        # No driver has this number.
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(10, 239))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    error = refused(config, device=device)
    assert error.exit_code == ExitCode.NO_FUSE
    assert "cannot be opened" in error.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root does without fusermount3")
def test_no_fusermount3(config, tmp_path):
    error = refused(config, search_path=str(tmp_path), device=Path("/dev/null"))
    assert error.exit_code == ExitCode.NO_FUSE
    assert "install the package fuse3" in error.text


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("", False), ("#user_allow_other\n", False), ("a = 1\n user_allow_other \n", True)],
)
def test_fuse_conf(tmp_path, text, allowed):
    (tmp_path / "fuse.conf").write_text(text)
    assert preflight._allows_other(tmp_path / "fuse.conf") is allowed
    assert not preflight._allows_other(tmp_path / "missing")


def test_a_directory_that_serves(config):
    preflight.check(config, no_word, device=Path("/dev/null"))


@pytest.mark.parametrize("field", ["state_dir", "cache_dir", "data_dir"])
def test_a_mount_must_not_be_where_the_daemon_works(config, field):
    same = dataclasses.replace(config, **{field: config.mountpoint})
    inside = dataclasses.replace(config, **{field: config.mountpoint / "deep" / "er"})
    around = dataclasses.replace(config, **{field: config.mountpoint.parent})
    for one in (same, inside, around):
        error = refused(one, device=Path("/dev/null"))
        assert error.exit_code == ExitCode.MOUNT_POINT


def test_a_neighbour_with_a_similar_name_is_no_overlap(config):
    preflight.check_overlap(config.mountpoint, {"x": Path(f"{config.mountpoint}-state")})


def test_an_overlap_through_a_link_is_found(config, tmp_path):
    (tmp_path / "link").symlink_to(config.mountpoint)
    with pytest.raises(MountError, match="holds the box"):
        preflight.check_overlap(config.mountpoint, {"the box": tmp_path / "link" / "box"})
