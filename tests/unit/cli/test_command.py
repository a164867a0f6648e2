"""The command as a process: texts, codes, and what it loads."""

import json
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

from devboxfs import cli
from devboxfs.cli import terminal
from devboxfs.cli.group import MODULES, commands


def devboxfs(*arguments, **options):
    command = [sys.executable, "-P", "-m", "devboxfs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_help_has_the_exit_codes():
    done = devboxfs("mount", "--help")
    assert done.returncode == 0
    assert "    7  changes are not in the box yet; the journal keeps them" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["mount"],
        ["mount", "a"],
        ["mount", "--cache-size=x", "a", "b"],
        ["mount", "--timeout=0", "a", "b"],
        ["umount", "--timeout=0", "a"],
    ],
)
def test_wrong_arguments(arguments):
    done = devboxfs(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_commands_load_neither_trio_nor_the_sdk():
    code = (
        "import sys, devboxfs.cli, devboxfs.overview, devboxfs.unmounting, devboxfs.preflight\n"
        "print({'trio', 'pyfuse3', 'sealos_devbox', 'rich', 'asyncio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def _tree(command):
    below = getattr(command, "commands", {})
    return {name: _tree(below[name]) for name in sorted(below)}


def test_each_command_is_whole_by_the_module_that_is_imported_for_it():
    code = (
        "import json, sys\n"
        "from tests.unit.cli.test_command import _tree, commands\n"
        "print(json.dumps(_tree(commands.get_command(None, sys.argv[1]))))"
    )
    for module in pkgutil.iter_modules(cli.__path__):
        import_module(f"devboxfs.cli.{module.name}")
    assert set(commands.commands) == set(MODULES)
    for name, below in _tree(commands).items():
        if not below:
            module = commands.commands[name].callback.__module__
            assert module == f"devboxfs.cli.{MODULES[name]}", name
            continue
        argv = [sys.executable, "-c", code, name]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == below, name


def test_a_command_does_not_load_the_others():
    code = (
        "import sys, devboxfs.cli\n"
        "try: devboxfs.cli.main(['status', '--help'])\n"
        "except SystemExit: print({'devboxfs.cli.boxes'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nset()\n")


def test_a_reader_that_goes_away():
    command = [sys.executable, "-P", "-m", "devboxfs", "status"]
    reader, *_ = (subprocess.Popen(["true"], stdin=subprocess.PIPE),)
    reader.wait()
    done = subprocess.run(command, stdout=reader.stdin, stderr=subprocess.PIPE, check=False)
    reader.stdin.close()
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "printed"),
    [("ä b", "ä b"), ("a\x1b[2Jb\n", "a\\x1b[2Jb\\n"), ("\udcff", "\\udcff")],
)
def test_names_cannot_write_to_the_terminal(text, printed):
    assert terminal.printable(text) == printed
