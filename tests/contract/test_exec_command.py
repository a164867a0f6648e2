"""Commands by exec: whole outputs, exit codes, and no command that outlives its caller."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager

import anyio
import pytest

from sealos_devbox._protocol.guarded_script import Collector
from sealos_devbox._transport.kube.command import run_command, run_script
from sealos_devbox.errors import CapabilityError, DeadlineExceededError, TransportError
from tests.contract.test_exec_channel import TARGET, V4, access_to
from tests.fakes.exec_server import exec_server


@pytest.fixture(params=["v5", "v4"])
async def run(request):
    async with exec_server() as server, access_to(server) as access:
        if request.param == "v4":
            server.versions = V4

        async def script(text: str, **options):
            return await run_script(access, TARGET, text, **options)

        script.access, script.server = access, server  # type: ignore[attr-defined]
        yield script


async def test_both_outputs_and_the_exit_code(run):
    output = await run("echo out; echo err >&2; exit 7")
    assert (output.exit_code, output.stdout, output.stderr) == (7, b"out\n", b"err\n")
    output = await run("printf '\\n\\n'; printf x >&2; kill -TERM $$")
    assert (output.exit_code, output.stdout, output.stderr) == (143, b"\n\n", b"x")


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
async def test_input_has_an_end_in_both_versions(run, size):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    output = await run("sha256sum", data=data)
    assert output.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


async def test_input_that_is_not_taken_is_no_trouble(run):
    output = await run("head -c 10", data=b"line\n" * 100_000)
    assert output.stdout == b"line\nline\n"
    assert (await run("exit 3", data=b"line\n" * 100_000)).exit_code == 3


async def test_arguments_are_no_shell(run):
    argv = ["printf", "%s\n", "a b", "$HOME", "it's", "*", "", "new\nline"]
    output = await run_command(run.access, TARGET, argv)
    assert output.stdout == b"a b\n$HOME\nit's\n*\n\nnew\nline\n"
    output = await run_command(run.access, TARGET, ["no-such-program"])
    assert output.exit_code == 127


async def test_names_of_the_wrapper_in_a_script(run):
    text = "printf '%s\\n' 'SCRIPT USER NONCE FEED DIRECTORY a\\nb'"
    assert (await run(text)).stdout == b"SCRIPT USER NONCE FEED DIRECTORY a\\nb\n"


async def test_the_directory(run, tmp_path):
    assert (await run("pwd", directory=str(tmp_path))).stdout.decode().strip() == str(tmp_path)
    with pytest.raises(CapabilityError, match="absent"):
        await run("pwd", directory=str(tmp_path / "absent"))


@asynccontextmanager
async def gone(path):
    """The process whose number a script writes there has ended when the block has."""
    yield
    with anyio.fail_after(30):
        while not path.exists() or not path.read_text().strip():
            await anyio.sleep(0.01)
        pid = path.read_text().strip()
        while (await anyio.run_process(["kill", "-0", pid], check=False)).returncode == 0:
            await anyio.sleep(0.01)


async def test_a_command_that_is_given_up_is_killed(run, tmp_path):
    pid = tmp_path / "pid"
    script = f"echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1000"
    async with gone(pid):
        with pytest.raises(DeadlineExceededError):
            await run(script, timeout=0.7)


async def test_a_command_whose_connection_broke(run, tmp_path):
    pid = tmp_path / "pid"

    async def cut() -> None:
        while not pid.exists():
            await anyio.sleep(0.01)
        await run.server.streams[0].aclose()

    async with gone(pid), anyio.create_task_group() as tasks:
        tasks.start_soon(cut)
        with pytest.raises(TransportError):
            await run(f"echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1000")


async def test_more_output_than_is_wanted(run):
    with pytest.raises(CapabilityError, match="more than 100,000 bytes"):
        await run("yes", max_output=100_000)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_the_end_is_found_wherever_it_is_cut(step):
    collector = Collector("n0nce")
    said = b"out\n\nn0nce\n\nn0nc \nn0nce 42\n"
    for start in range(0, len(said), step):
        assert not collector.complete
        collector.add_stdout(said[start : start + step])
    collector.add_stderr(b"err\nn0nce\n")
    assert collector.complete
    assert collector.exit_code == 42
    assert collector.stdout == b"out\n\nn0nce\n\nn0nc "
    assert collector.stderr == b"err"
