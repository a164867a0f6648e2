"""Searching and replacing in a box's files. Every function blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec

from sealos_devbox.server.agent.answers import invalid, missing
from sealos_devbox.server.agent.workspace import Workspace

__all__ = ["FindForm", "ReplaceForm", "SearchForm", "find", "replace", "search"]

_SKIPPED = frozenset(
    ["node_modules", "target", "dist", "build", "__pycache__", "venv", "vendor", "coverage", "out"]
)
_WHOLE = 32 * 1024
"""A file up to this size is looked through as a whole, a larger one line by line."""


class SearchForm(msgspec.Struct):
    """Body of `files/search`."""

    dir: str
    pattern: str


class FindForm(msgspec.Struct):
    """Body of `files/find`."""

    dir: str
    keyword: str


class ReplaceForm(msgspec.Struct):
    """Body of `files/replace`."""

    files: list[str]
    from_: str = msgspec.field(name="from")
    to: str


def _files(workspace: Workspace, given: str) -> Iterator[str]:
    """Yield regular files below a directory; links and build products are left out."""
    top = workspace.target(given)
    if not os.path.isdir(top):
        raise missing("Directory not found")
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if name not in _SKIPPED and not name.startswith(".")]
        for name in files:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def search(workspace: Workspace, form: SearchForm) -> dict[str, Any]:
    """Find files by a part of their name, whatever its case."""
    if not form.pattern:
        raise invalid("Pattern cannot be empty")
    wanted = form.pattern.lower()
    return {
        "files": [
            os.fsencode(path).decode("utf-8", "replace")
            for path in _files(workspace, form.dir)
            if wanted in os.path.basename(path).lower()
        ]
    }


def find(workspace: Workspace, form: FindForm, limit: int) -> dict[str, Any]:
    """Find files by a part of their content."""
    if not form.keyword:
        raise invalid("Keyword cannot be empty")
    wanted = form.keyword.encode()
    found = []
    for path in _files(workspace, form.dir):
        try:
            size = os.path.getsize(path)
            if 0 < size <= limit and _holds(path, wanted, size):
                found.append(os.fsencode(path).decode("utf-8", "replace"))
        except OSError:
            continue
    return {"files": found}


def _holds(path: str, wanted: bytes, size: int) -> bool:
    with open(path, "rb") as file:
        start = file.read(8192)
        if b"\0" in start:
            return False
        file.seek(0)
        if size <= _WHOLE:
            return wanted in file.read()
        return any(wanted in line for line in file)


def replace(workspace: Workspace, form: ReplaceForm, limit: int) -> dict[str, Any]:
    """Replace a text in files; what happens to one does not concern the others."""
    if not form.from_:
        raise invalid("Search text cannot be empty")
    return {"results": [_replace(workspace, given, form, limit) for given in form.files]}


def _replace(workspace: Workspace, given: str, form: ReplaceForm, limit: int) -> dict[str, Any]:
    try:
        path = workspace.target(given)
        result: dict[str, Any] = {"file": path, "status": "skipped", "replacements": 0}
        if not os.path.exists(path):
            return {**result, "status": "error", "error": "File not found"}
        if not os.path.isfile(path):
            return {**result, "status": "error", "error": "Path is a directory, not a file"}
        if os.path.getsize(path) > limit:
            return {**result, "error": "File too large"}
        with open(path, "rb") as file:
            raw = file.read()
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return {**result, "error": "Binary file"}
        count = text.count(form.from_)
        if count:
            with open(path, "wb") as file:
                file.write(text.replace(form.from_, form.to).encode())
            return {**result, "status": "success", "replacements": count}
    except OSError as error:
        text = f"{os.strerror(error.errno or 5)} (os error {error.errno})"
        return {"file": given, "status": "error", "replacements": 0, "error": text}
    return result
