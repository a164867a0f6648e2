"""The way to a box through its agent: the helper where it may run, else the box's own tools."""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import httpx

from sealos_devbox._protocol import agent_bootstrap
from sealos_devbox._protocol.agent_bootstrap import Missing, Present, Unusable
from sealos_devbox._transport.agent.channel import open_agent_channel
from sealos_devbox._transport.agent.client import AgentClient, RunRequest
from sealos_devbox._transport.agent.runner import AgentRunner
from sealos_devbox._transport.base import ByteChannel, FileTransport
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.helper_files import HelperFile, find_helpers
from sealos_devbox._transport.noticing import NoticingChannel
from sealos_devbox._transport.shell.transport import open_shell_transport
from sealos_devbox.errors import BoxFileError, CapabilityError, ConnectError
from sealos_devbox.secret import Secret

__all__ = ["AgentTarget", "open_agent_client", "open_agent_transport", "place_helper"]

_log = logging.getLogger(__name__)

PART: Final = 512 * 1024
"""Bytes of one write: a proxy in front may refuse bodies over 1 MiB."""
CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class AgentTarget:
    """A box's agent, and what is to be served."""

    url: str
    token: Secret
    workspace: str | None = None
    """None for the directory that the agent takes relative paths from."""
    helper: Path | None = None
    """In place of the helpers in this package."""
    ca_file: Path | None = None
    use_helper: bool = True
    """False: nothing is put into the box."""
    compress: bool = True
    renew: Callable[[], Awaitable[Secret]] | None = None
    """Returns the token anew, when the agent refuses it."""


@asynccontextmanager
async def open_agent_client(target: AgentTarget) -> AsyncIterator[AgentClient]:
    """Yield a client of the agent."""
    verify: ssl.SSLContext | bool = True
    if target.ca_file is not None:
        verify = ssl.create_default_context(cafile=str(target.ca_file))
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(verify=verify, limits=limits) as http:
        yield AgentClient(http, target.url, target.token, target.renew)


@asynccontextmanager
async def open_agent_transport(
    target: AgentTarget, *, on_end: Callable[[], None] | None = None
) -> AsyncIterator[FileTransport]:
    """Yield a transport through the agent: the best that the box allows.

    `on_end` is called once nothing more will come from it. Raises ConnectError, and CapabilityError
    where the box lacks even a shell.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_agent_client(target))
        workspace = target.workspace or await _workspace(client)
        helper = None
        if target.use_helper:
            try:
                helper = await place_helper(client, workspace, target.helper)
            except CapabilityError as error:
                _log.warning("through the agent, with the box's own tools only: %s", error)
        if helper is None:
            runner = AgentRunner(client, workspace)
            weak = await stack.enter_async_context(open_shell_transport(runner))
            yield weak
            return
        # Beside the helper, in a directory that belongs to the agent's user.
        mailbox = f"{helper.rpartition('/')[0]}/mailbox-{secrets.token_hex(8)}"
        argv = [helper, "serve", "--root", workspace, "--mailbox", mailbox]
        channel: ByteChannel = await stack.enter_async_context(
            open_agent_channel(client, RunRequest(argv, "/"), mailbox)
        )
        if on_end is not None:
            channel = NoticingChannel(channel, on_end)
        yield await stack.enter_async_context(
            open_helper_transport(channel, compress=target.compress)
        )


async def _workspace(client: AgentClient) -> str:
    completed = await client.run(RunRequest(["pwd"], "."))
    workspace = completed.stdout.rstrip("\n")
    if completed.exit_code or not workspace.startswith("/"):
        raise ConnectError(f"the agent does not say where its workspace is: {completed.stderr}")
    return workspace


async def place_helper(client: AgentClient, workspace: str, given: Path | None) -> str:
    """Return the path of the helper in the box, which is uploaded unless it is there.

    Raises CapabilityError, with the reason, when it may not run there.
    """
    helpers = await anyio.to_thread.run_sync(find_helpers, given)
    nonce = secrets.token_hex(8)
    hashes = {name: helper.digest for name, helper in helpers.items()}
    answer = await _script(client, agent_bootstrap.look(hashes, root=workspace, nonce=nonce))
    if isinstance(answer, Missing):
        answer = await _upload(client, answer, helpers[answer.architecture], nonce)
    if isinstance(answer, Present):
        return answer.path
    reason = answer.reason if isinstance(answer, Unusable) else "it did not arrive"
    raise CapabilityError(f"The helper cannot run in the box: {reason}.")


async def _upload(
    client: AgentClient, missing: Missing, helper: HelperFile, nonce: str
) -> Present | Missing | Unusable:
    content = await anyio.to_thread.run_sync(lambda: helper.content(compressed=missing.compressed))
    _log.info("uploading the helper, %d bytes, into %s", len(content), missing.directory)
    starts = range(0, len(content), PART)
    for number, start in enumerate(starts):
        name = f"{missing.directory}/.new-{nonce}.{number}"
        await client.write(name, content[start : start + PART])
    return await _script(
        client,
        agent_bootstrap.finish(missing, helper.digest, nonce=nonce, parts=len(starts)),
    )


async def _script(client: AgentClient, script: str) -> Present | Missing | Unusable:
    try:
        completed = await client.run(RunRequest(["sh", "-c", script], "/", timeout=60))
    except BoxFileError as error:
        raise CapabilityError("The box has no shell.") from error
    return agent_bootstrap.parse(completed.stdout, completed.stderr)
