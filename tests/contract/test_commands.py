"""Commands in a box, on real helpers."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from sealos_devbox import (
    AsyncBox,
    AsyncDevbox,
    BoxFileNotFoundError,
    BoxPermissionError,
    CommandFailedError,
    CommandNotFoundError,
    CommandTimeoutError,
    DeadlineExceededError,
    DevboxConfig,
)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[AsyncBox]:
    async with AsyncDevbox(DevboxConfig(embedded=True, data_dir=tmp_path / "data")) as devbox:
        yield await devbox.create("my-box")


async def test_a_program_with_arguments(box: AsyncBox) -> None:
    result = await box.run(["printf", "%s|", "a b", "$HOME", "'\"", "", "ü", "\udcff"])
    assert result.stdout_bytes == "a b|$HOME|'\"||ü|".encode() + b"\xff|"
    assert result.stdout == "a b|$HOME|'\"||ü|\udcff|"
    assert (result.exit_code, result.signal, result.ok, result.stderr) == (0, None, True, "")
    assert result.duration > 0


async def test_a_line_for_the_shell(box: AsyncBox) -> None:
    result = await box.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert not result.ok
    with pytest.raises(CommandFailedError, match="exit code 3") as caught:
        await box.run("echo out; exit 3", check=True)
    assert caught.value.result.stdout == "out\n"


async def test_ended_by_a_signal(box: AsyncBox) -> None:
    result = await box.run("kill -KILL $$")
    assert (result.exit_code, result.signal) == (None, signal.SIGKILL)
    with pytest.raises(CommandFailedError, match="signal 9"):
        await box.run("kill -KILL $$", check=True)


async def test_where_it_runs(box: AsyncBox, tmp_path: Path) -> None:
    workspace = tmp_path / "data" / "boxes" / "my-box" / "workspace"
    (workspace / "sub").mkdir()
    for cwd, expected in [
        (None, workspace),
        ("sub", workspace / "sub"),
        ("/workspace/sub", workspace / "sub"),
        (workspace, workspace),
    ]:
        assert (await box.run(["pwd", "-P"], cwd=cwd)).stdout == f"{expected.resolve()}\n"
    with pytest.raises(BoxFileNotFoundError) as caught:
        await box.run(["pwd"], cwd="nothing")
    assert caught.value.filename == "nothing"
    for outside in ("../..", "/etc"):
        with pytest.raises(ValueError, match=r"leads out|outside"):
            await box.run(["pwd"], cwd=outside)


async def test_environment(box: AsyncBox) -> None:
    result = await box.run('echo "$A|$PATH"', env={"A": "1 ü"})
    added, path = result.stdout.rstrip("\n").split("|")
    assert added == "1 ü"
    assert path


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
async def test_input_and_output_at_once(box: AsyncBox, size: int) -> None:
    data = os.urandom(size)
    with anyio.fail_after(60):
        result = await box.run(["cat"], input=data)
    assert result.stdout_bytes == data


async def test_input_that_nobody_reads(box: AsyncBox) -> None:
    with anyio.fail_after(60):
        result = await box.run("exit 4", input=bytes(5_000_000))
        assert result.exit_code == 4
        assert (await box.run(["cat"])).stdout == ""
        assert (await box.run(["cat"], input="text ü")).stdout == "text ü"


@pytest.mark.slow
async def test_much_output(box: AsyncBox) -> None:
    with anyio.fail_after(60):
        result = await box.run("head -c 20000000 /dev/zero; head -c 3000000 /dev/zero >&2")
    assert (len(result.stdout_bytes), len(result.stderr_bytes)) == (20_000_000, 3_000_000)


@pytest.mark.slow
async def test_time_is_up(box: AsyncBox) -> None:
    with anyio.fail_after(60):
        with pytest.raises(CommandTimeoutError, match=r"0\.5 s") as caught:
            await box.run("echo begun; echo $$ > pid; sleep 1000 & wait", timeout=0.5)
        assert isinstance(caught.value, DeadlineExceededError)
        assert caught.value.result.stdout == "begun\n"
        assert caught.value.result.exit_code is None
        pid = int(await box.fs.read_text("pid"))
        # The whole group is gone: nothing is left of it to be signalled.
        while (await box.run(["kill", "-0", "--", f"-{pid}"])).ok:
            pass


async def test_no_such_program(box: AsyncBox) -> None:
    with pytest.raises(CommandNotFoundError, match="no-such-program"):
        await box.run(["no-such-program"])
    await box.fs.write_file("not-executable", "#!/bin/sh\n")
    with pytest.raises(BoxPermissionError):
        await box.run(["./not-executable"])
    with pytest.raises(ValueError, match="at least"):
        await box.run([])
    with pytest.raises(ValueError, match="NUL"):
        await box.run(["a\0b"])


async def test_a_conversation(box: AsyncBox) -> None:
    with anyio.fail_after(60):
        async with box.open_process('while read line; do echo "<$line>"; done; exit 7') as process:
            for word in ("one", "two"):
                await process.send(f"{word}\n")
                assert await process.receive() == ("stdout", f"<{word}>\n".encode())
            assert (process.exit_code, process.signal) == (None, None)
            await process.send_eof()
            assert await process.receive() is None
            assert await process.receive() is None
            assert process.exit_code == 7


async def test_signals_reach_the_group(box: AsyncBox) -> None:
    with anyio.fail_after(60):
        # In small steps: a shell runs its trap only when the command before it has ended.
        line = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.01; done"
        async with box.open_process(line) as process:
            assert await process.receive() == ("stdout", b"ready\n")
            await process.send_signal(signal.SIGINT)
            assert await process.receive() == ("stdout", b"caught\n")
            assert await process.receive() is None
            assert process.exit_code == 5


async def test_leaving_the_block_kills(box: AsyncBox) -> None:
    with anyio.fail_after(60):
        async with box.open_process("echo $$; exec sleep 1000") as process:
            output = await process.receive()
            assert output is not None
        while (await box.run(["kill", "-0", output[1].strip().decode()])).ok:
            pass


async def test_a_terminal(box: AsyncBox) -> None:
    with anyio.fail_after(60):
        async with box.open_process("stty size; read x; stty size", terminal=(24, 80)) as process:
            output = b""
            while b"24 80" not in output:
                received = await process.receive()
                assert received is not None
                output += received[1]
            await process.resize(30, 100)
            await process.send("\n")
            while (received := await process.receive()) is not None:
                output += received[1]
        assert b"30 100" in output


async def test_a_process_has_to_be_started_once(box: AsyncBox) -> None:
    process = box.open_process(["true"])
    with pytest.raises(RuntimeError, match="with"):
        await process.receive()
    async with process:
        assert await process.receive() is None
    with pytest.raises(RuntimeError, match="once"):
        async with process:
            pass


def test_signals_work_where_this_process_ignores_them(tmp_path: Path) -> None:
    """As in a shell's background job: what is ignored is inherited, and cannot even be trapped."""
    program = """if True:
        import signal, sys
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from sealos_devbox import Devbox, DevboxConfig
        with Devbox(DevboxConfig(embedded=True, data_dir=sys.argv[1])) as devbox:
            box = devbox.get_or_create("my-box")
            print(box.run("trap 'echo caught; exit 5' INT; kill -INT $$; echo lost").stdout)
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=60, check=True
    )
    assert done.stdout.split() == [b"caught"]
