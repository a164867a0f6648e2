"""Programs that nobody here wrote check the mount: they know nothing of it, and pass.

Short forms by default; DEVBOX_TEST_LONG=1 gives each of them minutes. What cannot work here (see
DESIGN.md, section 9) is not asked for: chattr, inode-flags, file-ioctl, fiemap, verity need ioctl;
fallocate, fpunch and fsize need fallocate(2); handle needs name_to_handle_at; fanotify, bind-mount,
binderfs, procfs, eventfd, ioprio are about other things.
"""

import os
import re
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.posix.conftest import LONG
from tests.support.accounts import Account
from tests.support.commands import need
from tests.support.trees import differences, fill, fill_with_oddities

pytestmark = pytest.mark.timeout(900 if LONG else 180)

FIO = {
    "sync": ["--ioengine=sync", "--rw=randwrite"],
    "psync": ["--ioengine=psync", "--rw=randrw"],
    "mmap": ["--ioengine=mmap", "--rw=randwrite"],
    "libaio": ["--ioengine=libaio", "--iodepth=8", "--rw=randwrite"],
    "libaio-direct": ["--ioengine=libaio", "--iodepth=8", "--direct=1", "--rw=randwrite"],
    "fsync": ["--ioengine=psync", "--rw=write", "--fsync=64"],
}


@pytest.mark.parametrize("job", FIO)
def test_fio_verifies_what_it_wrote(account: Account, place: Place, job: str) -> None:
    size = "512m" if LONG else "4m"
    place.run(
        need("fio"),
        *FIO[job],
        f"--name={job}",
        "--directory=.",
        f"--size={size}",
        "--bs=16k",
        "--numjobs=2",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--fallocate=none",
        "--randseed=7",
        timeout=600 if LONG else 120,
    )
    place.sync()
    for path in place.mount.iterdir():
        if path.suffix == ".0":
            assert path.read_bytes() == (place.box / path.name).read_bytes()


# Each of them works in a directory of its own below --temp-path, and checks with --verify.
STRESSORS = {
    "names": ["dentry", "dir", "dirdeep", "filename", "getdent", "link", "rename", "symlink"],
    "files": [
        *(["copy-file"] if LONG else []),
        "fstat",
        "hdd",
        "io",
        "iomix",
        "open",
        "sync-file",
        "touch",
    ],
    "attributes": ["access", "chdir", "chmod", "chown", "dup", "fcntl", "mknod", "utime", "xattr"],
    "locks and events": ["dnotify", "flock", "inotify", "lease", "locka", "lockf", "lockofd"],
}
OPERATIONS = {"dirdeep": "60", "dirmany": "200", "filename": "40", "hdd": "60", "iomix": "60"}


@pytest.mark.parametrize("group", STRESSORS)
def test_stress_ng_finds_nothing_wrong(account: Account, place: Place, group: str) -> None:
    seconds = "60" if LONG else "1"
    for stressor in STRESSORS[group]:
        options = [f"--{stressor}", "1", "--timeout", f"{seconds}s"]
        if stressor in OPERATIONS and not LONG:
            options += [f"--{stressor}-ops", OPERATIONS[stressor]]
        if stressor == "hdd":
            options += ["--hdd-bytes", "4m"]
        if stressor == "sync-file":
            options += ["--sync-file-bytes", "2m"]
        if stressor == "iomix":
            options += ["--iomix-bytes", "2m"]
        done = place.run(
            need("stress-ng"),
            *options,
            "--verify",
            "--temp-path=.",
            "--metrics-brief",
            "--oomable",
            timeout=120,
            check=False,
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode in (0, 3), f"{stressor}: {said}"  # 3: does not apply to this user
        assert not re.search(r"\bfail(ed)?:", said), f"{stressor}: {said}"
    place.sync()
    assert differences(place.mount, place.box, times="") == []


def test_dbench_plays_its_clients(account: Account, place: Place) -> None:
    """A file server's load: names, reads, writes, flushes; any error ends it."""
    seconds = "60" if LONG else "3"
    done = place.run(need("dbench"), "-D", ".", "-t", seconds, "-x", "2", timeout=300)
    assert b"Throughput" in done.stdout
    assert b"failed" not in done.stdout + done.stderr
    place.sync()
    assert differences(place.mount, place.box, times="") == []


@pytest.mark.parametrize("sync", ["0", "1"])
def test_fs_mark_makes_its_files(account: Account, place: Place, sync: str) -> None:
    count, size = (5000, 16384) if LONG else (150, 8192)
    argv = ["-d", ".", "-n", str(count), "-s", str(size), "-S", sync, "-k", "-D", "4"]
    place.run(need("fs_mark"), *argv, "-l", place.owner.scratch / f"log{sync}", timeout=300)
    place.sync()
    sizes = [path.stat().st_size for path in place.box.rglob("*") if path.is_file()]
    assert sizes.count(size) == count


@pytest.mark.skipif(
    not LONG, reason="its 8,000 seeks take minutes on a busy machine; DEVBOX_TEST_LONG=1 runs it"
)
def test_bonnie_finds_its_data(account: Account, place: Place) -> None:
    """Written by characters and by blocks, read back, seeked in; files made, looked at, removed."""
    argv = [need("bonnie++"), "-f", "-d", ".", "-s", "64:8k", "-r", "32", "-n", "1:1024:0:1"]
    user = ["-u", "root"] if account.is_root else []
    place.run(*argv, *user, timeout=800)
    assert os.listdir(place.mount) == []


@pytest.mark.parametrize("way", ["to the mount", "from the mount"])
def test_rsync_by_checksum(account: Account, place: Place, way: str) -> None:
    source, target = (
        (place.local, place.mount) if way == "to the mount" else (place.mount, place.local)
    )
    tree = source / "tree"
    tree.mkdir()
    fill(tree, seed=3, files=1000 if LONG else 60, directories=8)
    (tree / "oddities").mkdir()
    fill_with_oddities(tree / "oddities")
    os.mkfifo(tree / "fifo")
    os.setxattr(tree / "oddities", "user.kind", b"odd")
    # rsync leaves a time alone that differs by less than a second.
    for number, path in enumerate(sorted(tree.rglob("*"), reverse=True)):
        when = 1_400_000_000_123_456_789 + number * 1_000_000_007
        os.utime(path, ns=(when, when), follow_symlinks=False)
    copied = target / "copied"
    argv = [need("rsync"), "-aHX", "--checksum", "--delete", f"{tree}/", f"{copied}/"]
    place.run(*argv, timeout=300)
    assert differences(tree, copied) == []
    assert os.getxattr(copied / "oddities", "user.kind") == b"odd"
    again = place.run(*argv, "--itemize-changes", timeout=300)
    assert again.stdout == b""


def test_cargo_builds(account: Account, place: Place) -> None:
    cargo = need("cargo")
    if not os.access(cargo, os.X_OK) or not _usable(place, cargo):
        pytest.skip("cargo is not for this user")
    (place.mount / "src").mkdir()
    (place.mount / "Cargo.toml").write_text(
        '[package]\nname = "hello"\nversion = "0.1.0"\nedition = "2021"\n'
    )
    (place.mount / "src" / "main.rs").write_text('fn main() { println!("built on the mount"); }\n')
    environment = {**place.owner.environment, **_toolchain()}
    place.run(cargo, "build", "--offline", "--quiet", env=environment, timeout=150)
    assert place.run(place.mount / "target/debug/hello").stdout == b"built on the mount\n"
    again = place.run(cargo, "build", "--offline", "-v", env=environment, timeout=100)
    assert b"Fresh hello" in again.stderr


def _toolchain() -> dict[str, str]:
    home = Path(os.path.expanduser("~"))
    return {
        name: os.environ.get(name, str(home / below))
        for name, below in (("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo"))
    }


def _usable(place: Place, cargo: str) -> bool:
    environment = {**place.owner.environment, **_toolchain()}
    return place.run(cargo, "--version", env=environment, check=False).returncode == 0
