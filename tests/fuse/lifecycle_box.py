"""The command line around lifecycle_standin, with real processes and mounts."""

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.accounts import as_launcher
from tests.support.commands import run
from tests.support.mounts import MountedBox

PROGRAM = Path(__file__).with_name("lifecycle_standin.py")


class StandIn(MountedBox):
    """The command line around the stand-in."""

    def argv(self, *arguments) -> list[str]:
        words = [os.fspath(word) for word in arguments]
        return [*self.account.prefix(), sys.executable, os.fspath(PROGRAM), *words]

    def devboxfs(self, *arguments, check=True, timeout=60, env=None):
        environment = {**self.environment, **(env or {})}
        return as_launcher(
            lambda: run(
                *self.argv(*arguments), cwd="/", env=environment, check=check, timeout=timeout
            )
        )

    def mount_fails(self, *arguments, standin: str = "", code: int) -> str:
        """Run `mount` and return the one sentence that it says."""
        done = self.devboxfs(
            "mount", *(arguments or ("my-box", self.mount)), check=False, env={"STANDIN": standin}
        )
        assert (done.returncode, done.stdout) == (code, b"")
        return sentence(done)

    @contextlib.contextmanager
    def process(self, *arguments, **options) -> Iterator[subprocess.Popen]:
        """Run a program as the account for a while."""
        with as_launcher(
            lambda: subprocess.Popen(
                [*self.account.prefix(), *map(os.fspath, arguments)],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **options,
            )
        ) as child:
            try:
                yield child
            finally:
                as_launcher(child.kill)

    @contextlib.contextmanager
    def user_of(self, directory: Path) -> Iterator[int]:
        """A process that works in `directory`; its pid."""
        code = f"import os; os.chdir({str(directory)!r}); print(1, flush=True); input()"
        with self.process(sys.executable, "-c", code) as child:
            assert child.stdout.readline() == b"1\n"
            yield child.pid

    def signal(self, *numbers: int) -> None:
        pid = self.pid
        for number in numbers:
            as_launcher(os.kill, pid, number)


def sentence(done: subprocess.CompletedProcess) -> str:
    said = done.stderr.decode()
    assert said.startswith("devboxfs: ")
    assert said.endswith(".\n")
    assert said.count("\n") == 1
    return said.removeprefix("devboxfs: ").rstrip("\n")


def wait_end(pid: int, timeout: float = 10) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], timeout)[0], f"{pid} has not ended"
    finally:
        os.close(descriptor)
