"""Tools that developers run in a work tree: pip, npm, make, vim."""

import base64
import hashlib
import json
import os
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.support.accounts import Account, can_run_python
from tests.support.commands import need
from tests.support.trees import differences

_MODULE = "def greet():\n    return 'hello from the wheel'\n"


def make_wheel(directory: Path) -> Path:
    """Write a wheel with one package and a console script; a wheel is a zip with a record."""
    info = "tinything-1.0.dist-info"
    members = {f"tinything/part{number}.py": f"VALUE = {number}\n" for number in range(20)}
    members |= {
        "tinything/__init__.py": _MODULE,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ntinything = tinything:greet\n",
    }
    record = []
    wheel = directory / "tinything-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest())
            record.append(f"{name},sha256={digest.rstrip(b'=').decode()},{len(content)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return wheel


def test_a_virtual_environment_with_a_package(account: Account, place: Place) -> None:
    if not account.is_root and not can_run_python():
        pytest.skip("this Python is below a directory that is closed to the ordinary user")
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    wheel = make_wheel(place.local)
    place.run(base, "-m", "venv", "venv", timeout=110)
    programs = place.mount / "venv" / "bin"
    pip = [programs / "pip", "--disable-pip-version-check"]
    place.run(*pip, "install", "-q", "--no-index", wheel, timeout=100)
    call = "import tinything.part7; print(tinything.greet())"
    assert place.run(programs / "python", "-c", call).stdout == b"hello from the wheel\n"
    assert (programs / "tinything").read_text().startswith(f"#!{programs / 'python'}")
    place.run(*pip, "check")
    place.sync()
    assert differences(place.mount, place.box) == []
    place.run(*pip, "uninstall", "-q", "-y", "tinything")
    place.sync()
    assert not list(place.box.glob("venv/lib/*/site-packages/tinything*"))


def test_npm_installs_a_package(account: Account, place: Place) -> None:
    npm = need("npm")
    package = place.local / "package"
    (package / "lib").mkdir(parents=True)
    main = {"name": "tiny-thing", "version": "1.0.0", "main": "lib/index.js", "bin": "cli.js"}
    (package / "package.json").write_text(json.dumps(main))
    (package / "lib" / "index.js").write_text("module.exports = () => 'hello from npm';\n")
    (package / "cli.js").write_text("#!/usr/bin/env node\nconsole.log(require('tiny-thing')())\n")
    for number in range(50):
        (package / "lib" / f"part{number}.js").write_text(f"module.exports = {number};\n")
    quiet = ["--offline", "--no-audit", "--no-fund"]
    place.run(npm, "pack", *quiet, package, cwd=place.local)
    archive = place.local / "tiny-thing-1.0.0.tgz"
    (place.mount / "package.json").write_text(json.dumps({"name": "user", "version": "1.0.0"}))
    place.run(npm, "install", *quiet, f"file:{archive}", timeout=100)
    call = "console.log(require('tiny-thing')() + require('tiny-thing/lib/part7'))"
    assert place.run("node", "-e", call).stdout == b"hello from npm7\n"
    assert place.run(place.mount / "node_modules/.bin/tiny-thing").stdout == b"hello from npm\n"
    place.sync()
    assert differences(place.mount, place.box) == []


_MAKEFILE = """\
OBJECTS = main.o one.o two.o three.o
program: $(OBJECTS)
\t$(CC) -o $@ $(OBJECTS)
%.o: %.c parts.h
\t$(CC) -O0 -c -o $@ $<
\t@echo compiled $< >> built.log
"""


def test_make_builds_what_changed_and_nothing_else(account: Account, place: Place) -> None:
    need("make")
    need("cc")
    top = place.mount
    (top / "Makefile").write_text(_MAKEFILE)
    (top / "parts.h").write_text("int one(void); int two(void); int three(void);\n")
    for number, name in enumerate(["one", "two", "three"], 1):
        source = f'#include "parts.h"\nint {name}(void) {{ return {number}; }}\n'
        (top / f"{name}.c").write_text(source)
    main = '#include <stdio.h>\n#include "parts.h"\n'
    main += 'int main(void) { printf("%d\\n", one() * 100 + two() * 10 + three()); }\n'
    (top / "main.c").write_text(main)

    place.run("make", "-j2")
    assert place.run(top / "program").stdout == b"123\n"
    assert len((top / "built.log").read_text().splitlines()) == 4
    assert b"up to date" in place.run("make", "-j2").stdout

    (top / "built.log").unlink()
    (top / "two.c").write_text('#include "parts.h"\nint two(void) { return 7; }\n')
    place.run("make", "-j2")
    assert place.run(top / "program").stdout == b"173\n"
    assert (top / "built.log").read_text() == "compiled two.c\n"

    place.sync()
    assert place.run(place.box / "program").stdout == b"173\n"
    # Times arrived in the box as they are here: make there has nothing to do, either.
    assert b"up to date" in place.run("make", cwd=place.box).stdout


def test_vim_edits_and_saves(account: Account, place: Place) -> None:
    need("vim")
    for name, options in [("renamed", "set backupcopy=no"), ("in-place", "set backupcopy=yes")]:
        path = place.mount / name
        path.write_text("first line\nsecond line\nthird line\n")
        path.chmod(0o640)
        argv = ["vim", "-u", "NONE", "-i", "NONE", "-es", "-N", "-c", f"{options} writebackup"]
        place.run(*argv, "-c", "%s/second/changed/", "-c", "wq", path)
        assert path.read_text() == "first line\nchanged line\nthird line\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    place.sync()
    assert sorted(os.listdir(place.box)) == ["in-place", "renamed"]
    assert differences(place.mount, place.box) == []


def test_a_binary_runs_from_the_mount(account: Account, place: Place) -> None:
    program = place.mount / "true"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    place.run(program)
    program.chmod(0o644)
    with pytest.raises(PermissionError):
        place.run(program)
    script = place.mount / "script"
    script.write_text("#!/bin/sh\necho $((6 * 7))\n")
    script.chmod(0o700)
    assert place.run(script).stdout == b"42\n"
