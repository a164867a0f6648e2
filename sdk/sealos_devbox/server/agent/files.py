"""The agent's file routes, without the streaming ones. Every function blocks."""

from __future__ import annotations

import os
import shutil
import stat
from datetime import UTC, datetime
from typing import Any

import msgspec

from sealos_devbox.server.agent.answers import (
    AgentError,
    conflict,
    internal,
    invalid,
    missing,
    os_failure,
)
from sealos_devbox.server.agent.workspace import Workspace

__all__ = [
    "ChmodForm",
    "DeleteForm",
    "MoveForm",
    "RenameForm",
    "change_mode",
    "delete",
    "list_directory",
    "make_parents",
    "move",
    "rename",
]


class DeleteForm(msgspec.Struct):
    """Body of `files/delete`."""

    path: str
    recursive: bool = False


class MoveForm(msgspec.Struct):
    """Body of `files/move`."""

    source: str
    destination: str
    overwrite: bool = False


class RenameForm(msgspec.Struct, rename="camel"):
    """Body of `files/rename`."""

    old_path: str
    new_path: str


class ChmodForm(msgspec.Struct):
    """Body of `files/chmod`."""

    path: str
    mode: str
    recursive: bool = False
    owner: str | None = None


def iso(seconds: float) -> str:
    """Write a time as the agent does: whole seconds, not before 1970."""
    return datetime.fromtimestamp(max(0, int(seconds)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def list_directory(
    workspace: Workspace, path: str, *, hidden: bool, limit: int, offset: int
) -> dict[str, Any]:
    """List in the order of the directory, a page of it, without following links."""
    shown = workspace.lexical(path)
    directory = workspace.target(path)
    items: list[dict[str, Any]] = []
    seen = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if not hidden and entry.name.startswith("."):
                continue
            seen += 1
            if seen <= offset or len(items) >= limit:
                continue
            found = entry.stat(follow_symlinks=False)
            items.append(
                {
                    "name": _text(entry.name),
                    "path": _text(os.path.join(shown, entry.name)),
                    "size": found.st_size,
                    "isDir": stat.S_ISDIR(found.st_mode),
                    "permissions": f"0{found.st_mode & 0o777:o}",
                    "modified": iso(found.st_mtime),
                }
            )
    return {"files": items}


def _text(name: str) -> str:
    """Replace what is no UTF-8, so that the name cannot be addressed any more."""
    return os.fsencode(name).decode("utf-8", "replace")


def make_parents(path: str) -> None:
    """Make the directories that a new file needs; the error is the agent's own."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise internal(f"Failed to create directory: {os_failure(error).message}") from None


def delete(workspace: Workspace, form: DeleteForm) -> dict[str, Any]:
    """Remove a file or directory. Looks through links first, so a dangling one stays."""
    path = workspace.entry(form.path)
    if not os.path.exists(path):
        raise missing("File not found")
    if path == workspace.root:
        raise AgentError(1403, "Permission denied (os error 13)")
    if form.recursive:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    elif os.path.isdir(path):
        os.rmdir(path)
    else:
        os.unlink(path)
    return {"success": True}


def move(workspace: Workspace, form: MoveForm) -> dict[str, Any]:
    """Move; overwriting deletes the destination first, even if it is the source."""
    source, destination = workspace.entry(form.source), workspace.entry(form.destination)
    if not os.path.exists(source):
        raise missing("Source file not found")
    if os.path.exists(destination):
        if not form.overwrite:
            raise conflict("Destination already exists")
        delete(workspace, DeleteForm(destination, recursive=True))
    make_parents(destination)
    os.rename(source, destination)
    return {"success": True}


def rename(workspace: Workspace, form: RenameForm) -> dict[str, Any]:
    """Rename; never overwrites, except a dangling link."""
    source, destination = workspace.entry(form.old_path), workspace.entry(form.new_path)
    if not os.path.exists(source):
        raise missing("File not found")
    if os.path.exists(destination):
        raise conflict("Destination already exists")
    make_parents(destination)
    os.rename(source, destination)
    return {"success": True}


def change_mode(workspace: Workspace, form: ChmodForm) -> dict[str, Any]:
    """Change mode, and owner where this user may; follows links."""
    digits = form.mode.removeprefix("0o")
    try:
        if not digits or not digits.isascii() or not digits.isdigit():
            raise ValueError(digits)  # noqa: TRY301 - one text for both
        mode = int(digits, 8) & 0o777
    except ValueError:
        raise invalid("Invalid mode format") from None
    path = workspace.target(form.path)
    if not os.path.exists(path):
        raise missing("File not found")
    os.chmod(path, mode)
    if form.recursive:
        for directory, names, files in os.walk(path):
            for name in [*names, *files]:
                inner = os.path.join(directory, name)
                if workspace.contains(os.path.realpath(inner)):
                    try:
                        os.chmod(inner, mode)
                    except OSError:
                        continue  # the real agent hides these too
    if form.owner:
        _change_owner(path, form.owner)
    return {"success": True}


def _change_owner(path: str, owner: str) -> None:
    user, _, group = owner.partition(":")
    try:
        if user:
            shutil.chown(path, user=int(user) if user.isdigit() else user)
        if group:
            shutil.chown(path, group=int(group) if group.isdigit() else group)
    except LookupError as error:
        raise invalid(str(error)) from None
    except PermissionError:
        raise internal("EPERM: Operation not permitted") from None
