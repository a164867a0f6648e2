"""The commands about boxes as a user runs them, against an engine that is served."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from devboxfs.cli import main
from sealos_devbox import Devbox, DevboxConfig
from sealos_devbox.server.run import Served, ServeOptions, serving
from sealos_devbox.server.settings import EngineSettings
from tests.support.commands import clean_environment

TOKEN = "a-token-of-a-test-000"


@dataclass
class User:
    """Somebody with a home directory, and an engine that they may use."""

    home: Path
    url: str
    kubeconfig: Path

    @property
    def service(self) -> list[str]:
        """The options that name the engine."""
        return ["--endpoint", self.url, "--kubeconfig", str(self.kubeconfig)]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **clean_environment(self.home),
            "HOME": str(self.home),
            "DEVBOX_CONFIG": str(self.home / "config" / "config.toml"),
            "DEVBOX_DATA_DIR": str(self.home / "data"),
            "COLUMNS": "100",
        }

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-P", "-m", "devboxfs", *map(str, arguments)]

    def run(
        self, *arguments: object, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in this process, which has imported everything already."""
        argv = [*map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        given = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        with (
            mock.patch.dict(os.environ, {**self.environment, **(env or {})}, clear=True),
            mock.patch.object(sys, "stdin", given),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main(argv)
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(argv, ended.value.code, out.getvalue(), err.getvalue())

    def spawn(
        self, *arguments: object, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a process of its own."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            cwd="/",
            env={**self.environment, **(env or {})},
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def does(self, *arguments: object, stdin: str = "") -> str:
        """Run a command that has to succeed, in this process, and return what it printed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: object) -> Any:
        return json.loads(self.does(*arguments, "--json"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("engine")
    settings = EngineSettings(
        directory, token=TOKEN, start_seconds=0.05, commit_seconds=0.1, sample_seconds=0.5
    )
    with serving(settings, ServeOptions()) as served:
        yield served


@pytest.fixture
def user(engine: Served, tmp_path: Path) -> User:
    (tmp_path / "tmp").mkdir()
    return User(tmp_path, engine.url, engine.kubeconfig)


@pytest.fixture
def member(user: User) -> User:
    """Somebody who has logged in: the profile says which service it is."""
    user.does("login", *user.service)
    return user


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.slow)  # processes, which import a lot
            if item.get_closest_marker("fuse") and not os.path.exists("/dev/fuse"):
                item.add_marker(pytest.mark.skip(reason="there is no /dev/fuse here"))


@pytest.fixture(scope="module")
def box(engine: Served) -> str:
    """A box that runs, for tests that are not about its life."""
    name = "work"
    config = DevboxConfig(api_url=engine.url, kubeconfig=engine.kubeconfig)
    with Devbox(config) as devbox:
        devbox.create(name, runtime="python")
    return name
