"""The synchronous API: the file contract through it, and what is its own."""

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import pytest
from anyio import to_thread

from sealos_devbox import (
    AsyncFiles,
    Box,
    BoxFileNotFoundError,
    BoxNotFoundError,
    Devbox,
    DevboxConfig,
    Files,
    Watch,
    WatchEvent,
)
from tests.contract.file_contract import FileContract

SDK = Path(__file__).parents[2] / "sdk"


@pytest.fixture
def config(tmp_path: Path) -> DevboxConfig:
    return DevboxConfig(embedded=True, data_dir=tmp_path / "data")


@pytest.fixture
def devbox(config: DevboxConfig) -> Iterator[Devbox]:
    with Devbox(config) as devbox:
        yield devbox


@pytest.fixture
def box(devbox: Devbox) -> Box:
    return devbox.create("my-box")


# ------------------------------------------------------------------------------- the contract


class WatchInThreads:
    """A synchronous watch with the methods of an asynchronous one."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def receive(self) -> WatchEvent | None:
        return await to_thread.run_sync(self._watch.receive)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        event = await to_thread.run_sync(lambda: next(self._watch, None))
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        await to_thread.run_sync(self._watch.__enter__)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await to_thread.run_sync(self._watch.__exit__, kind, value, traceback)


class FilesInThreads:
    """Synchronous files with the methods of asynchronous ones, so for the contract."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._files, name)
        if name == "watch":
            return lambda *args, **options: WatchInThreads(method(*args, **options))

        async def call(*args: object, **options: object) -> object:
            return await to_thread.run_sync(functools.partial(method, *args, **options))

        return call


class TestFacade(FileContract):
    """The contract, through the facade."""

    @pytest.fixture
    def files(self, box: Box) -> AsyncFiles:
        return cast("AsyncFiles", FilesInThreads(box.fs))  # by the names that the contract calls


# ----------------------------------------------------------------------------- without a block


@pytest.mark.slow
def test_nothing_has_to_be_closed(config: DevboxConfig) -> None:
    """The example of the documentation, in a program of its own: it has to end by itself."""
    program = """
        from sealos_devbox import Devbox, DevboxConfig
        import sys
        devbox = Devbox(DevboxConfig(data_dir=sys.argv[1]))
        sandbox = devbox.create("sandbox")
        sandbox.fs.write_file("/workspace/main.py", 'print("hello")')
        print(sandbox.fs.read_text("main.py"))
    """
    lines = "\n".join(map(str.strip, program.splitlines()))
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", lines, str(config.data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SDK), "DEVBOX_EMBEDDED": "1"},
    )
    assert (run.stdout, run.stderr, run.returncode) == ('print("hello")\n', "", 0)


@pytest.mark.slow
def test_the_example_of_the_readme(config: DevboxConfig) -> None:
    readme = (SDK.parent / "README.md").read_text()
    _, _, rest = readme.partition("\n## Use the SDK\n")
    example = rest.partition("```python\n")[2].partition("```")[0]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(SDK),
            "DEVBOX_EMBEDDED": "1",
            "DEVBOX_DATA_DIR": str(config.data_dir),
        },
    )
    assert (run.stderr, run.returncode) == ("", 0)
    assert run.stdout.startswith("hello\n\n")
    assert "hello.txt" in run.stdout.partition("\n\n")[2]


@pytest.mark.slow
def test_the_second_example_of_the_readme(config: DevboxConfig) -> None:
    readme = (SDK.parent / "README.md").read_text()
    _, _, rest = readme.partition("\n## Use the SDK\n")
    example = rest.split("```python\n")[2].partition("```")[0]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(SDK),
            "DEVBOX_EMBEDDED": "1",
            "DEVBOX_DATA_DIR": str(config.data_dir),
        },
    )
    assert (run.stderr, run.returncode) == ("", 0)
    assert run.stdout.splitlines()[0].endswith(" True")


@pytest.mark.slow
def test_a_client_that_is_garbage_ends_its_thread_and_helpers(config: DevboxConfig) -> None:
    devbox = Devbox(config)
    box = devbox.create("my-box")
    pid = int(box.run("echo $PPID").stdout)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "sealos-devbox"]
    del box, devbox
    thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_blocks(devbox: Devbox) -> None:
    devbox.create("my-box")
    with devbox.get("my-box") as box:
        box.fs.write_file("file", "x")
    assert box.fs.read_file("file") == b"x"  # connects again
    box.close()
    assert [other.name for other in devbox.list()] == ["my-box"]
    assert devbox.get("my-box").uid == box.uid
    assert repr(box).startswith("<Box 'my-box', embedded engine")
    devbox.delete("my-box")
    with pytest.raises(BoxNotFoundError):
        devbox.get("my-box")


def test_the_block_of_a_box_that_was_made_deletes_it(devbox: Devbox) -> None:
    with devbox.create("my-box") as box:
        box.fs.write_file("file", "x")
    with pytest.raises(BoxNotFoundError):
        devbox.get("my-box")
    with devbox.create("my-box") as box:
        box.keep()
    with devbox.get_or_create("my-box"):
        pass
    with devbox.get_or_create("other"):
        pass
    assert [box.name for box in devbox.list()] == ["my-box", "other"]
    with devbox.create("third") as box:
        box.delete()  # what is gone already is no failure


def test_a_closed_client_says_so(config: DevboxConfig) -> None:
    with Devbox(config) as devbox:
        box = devbox.create("my-box")
        box.fs.list_dir()
    with pytest.raises(RuntimeError, match="closed"):
        box.fs.list_dir()
    devbox.close()


def test_a_client_that_was_never_used_is_closed_without_a_thread(config: DevboxConfig) -> None:
    before = threading.active_count()
    devbox = Devbox(config)
    assert threading.active_count() == before
    devbox.close()


# ----------------------------------------------------------------------- interrupts and threads


def press_ctrl_c() -> None:
    """As the kernel does: the main thread gets the signal, and its waiting is interrupted."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGINT)


def test_ctrl_c_cancels_the_call(box: Box, tmp_path: Path) -> None:
    with box.fs.watch() as watch:

        def interrupt_when_it_runs() -> None:
            while (event := watch.receive()) is not None:
                if event.path == "running":
                    press_ctrl_c()
                    return

        watcher = threading.Thread(target=interrupt_when_it_runs)
        watcher.start()
        with pytest.raises(KeyboardInterrupt):
            box.run(
                "trap 'echo bye > ended; exit' TERM; echo $$ > running; sleep 1000; echo > finished"
            )
        watcher.join()
        pid = int(box.fs.read_text("running"))
    # The helper kills what is cancelled; a call that came after it has been answered since.
    for _ in range(1000):
        if box.run(["kill", "-0", str(pid)]).exit_code != 0:
            break
    else:
        pytest.fail("the command lives on")
    assert not box.fs.exists("finished")


def test_ctrl_c_while_waiting_for_a_change(box: Box) -> None:
    with box.fs.watch() as watch:
        entered = threading.Event()

        def interrupt() -> None:
            entered.wait()
            press_ctrl_c()

        thread = threading.Thread(target=interrupt)
        thread.start()
        entered.set()
        with pytest.raises(KeyboardInterrupt):
            watch.receive()
        thread.join()
        box.fs.write_file("after", "x")
        for event in watch:
            if event.path == "after":
                break


@pytest.mark.slow
def test_two_threads(box: Box) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for count in range(50):
                box.fs.write_file(f"{number}/{count}", str(count))
                assert box.fs.read_text(f"{number}/{count}") == str(count)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [len(box.fs.list_dir(str(number))) for number in range(2)] == [50, 50]


def test_closing_ends_calls_of_other_threads(config: DevboxConfig) -> None:
    devbox = Devbox(config)
    box = devbox.create("my-box")
    raised: list[RuntimeError] = []

    def wait_for_ever(watch: Watch) -> None:
        try:
            watch.receive()
        except RuntimeError as error:
            raised.append(error)

    watch = box.fs.watch()
    watch.__enter__()
    thread = threading.Thread(target=wait_for_ever, args=(watch,))
    thread.start()
    devbox.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_errors_keep_their_type(box: Box) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        box.fs.read_file("nothing")
    assert isinstance(caught.value, BoxFileNotFoundError)
    with pytest.raises(RuntimeError, match="with"):
        box.fs.watch().receive()
    with pytest.raises(BoxFileNotFoundError), box.fs.watch("nothing"):
        pass


FORK = """
import os, sys
from sealos_devbox import Devbox, DevboxConfig
devbox = Devbox(DevboxConfig(embedded=True, data_dir=sys.argv[1]))
box = devbox.create("my-box")
box.fs.write_file("file", "x")
pid = os.fork()
if pid == 0:
    try:
        box.fs.read_file("file")
    except RuntimeError as error:
        assert "fork" in str(error), error
    else:
        sys.exit("no error")
    devbox.close()
    other = Devbox(DevboxConfig(embedded=True, data_dir=sys.argv[1]))
    assert other.get("my-box").fs.read_file("file") == b"x"
    sys.exit(0)
_, status = os.waitpid(pid, 0)
assert box.fs.read_file("file") == b"x"
print("child", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
def test_after_a_fork(tmp_path: Path) -> None:
    run = subprocess.run(
        # Python 3.12 and later warn of what is tested here.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, tmp_path / "data"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SDK)},
    )
    assert (run.stdout, run.stderr, run.returncode) == ("child 0\n", "", 0)
