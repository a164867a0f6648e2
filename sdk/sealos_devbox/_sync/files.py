# Generated from _async/files.py by sdk/tools/generate_sync.py (make generate).
"""The file API of a box."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from sealos_devbox._async.deadline import IDLE_TIMEOUT, TIMEOUT
from sealos_devbox._async.files import AsyncFiles
from sealos_devbox._async.transfer import Source, SourceT
from sealos_devbox._async.values import FileInfo, TransferResult
from sealos_devbox._sync._portal import Portal
from sealos_devbox._sync.watch import Watch
from sealos_devbox.paths import BoxPath
from sealos_devbox.types import Version

__all__ = ["Files"]


class Files:
    """Files in a box's workspace.

    A path is relative to the workspace, or absolute: below the workspace's own path in the box, or
    below ``/workspace``, which means the workspace of any box that has no such directory itself.
    ValueError is raised for one that leads out of it. Symbolic links are followed, beneath the
    workspace only. Names that are not UTF-8 are str with surrogate escapes.

    What the box refuses is raised as BoxFileError, which is also the OSError that a local file
    would have given, with errno and filename; what breaks on the way as TransportError. A call
    that takes longer than `timeout` seconds, or makes no progress for `idle_timeout` seconds,
    raises DeadlineExceededError; a change may have happened all the same after either.
    """

    def __init__(self, portal: Portal, asynchronous: AsyncFiles) -> None:
        self._portal = portal
        self._async = asynchronous

    def read_file(
        self,
        path: BoxPath,
        *,
        offset: int = 0,
        length: int | None = None,
        if_match: Version | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> bytes:
        """Return a file's content, or `length` bytes of it from `offset`.

        Never returns parts of two versions: a file that is changed while it is read is read again.
        With `if_match`, raises ConflictError when the file is of another version. One round trip
        for up to 1 MiB; then three, with the pieces under way at once.
        """
        return self._portal.call(
            self._async.read_file,
            path,
            offset=offset,
            length=length,
            if_match=if_match,
            timeout=timeout,
            idle_timeout=idle_timeout,
        )

    def read_text(
        self,
        path: BoxPath,
        *,
        encoding: str = "utf-8",
        errors: str = "strict",
        timeout: float | None = None,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> str:
        """Return a file's content as text; line ends are left as they are."""
        return self._portal.call(
            self._async.read_text,
            path,
            encoding=encoding,
            errors=errors,
            timeout=timeout,
            idle_timeout=idle_timeout,
        )

    def write_file(
        self,
        path: BoxPath,
        data: str | bytes,
        *,
        mode: int | None = None,
        if_match: Version | None = None,
        create_only: bool = False,
        parents: bool = True,
        timeout: float | None = None,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> FileInfo:
        """Write a whole file and return what it is then; text is written as UTF-8.

        Readers in the box see the old content or the new one, never a part. An existing file keeps
        its mode unless `mode` is given, and stays the file that symbolic links lead to; one that
        has several names, or another owner, is written in place instead, without that guarantee.

        `if_match`: only over that version, else ConflictError. `create_only`: only where there is
        nothing, else BoxFileExistsError. `parents`: make the directories on the way. One round trip
        for a new file of up to 64 KiB, two otherwise; links cost more.
        """
        return self._portal.call(
            self._async.write_file,
            path,
            data,
            mode=mode,
            if_match=if_match,
            create_only=create_only,
            parents=parents,
            timeout=timeout,
            idle_timeout=idle_timeout,
        )

    def list_dir(self, path: BoxPath = ".", *, timeout: float | None = TIMEOUT) -> list[FileInfo]:
        """Return what a directory holds, by name, links themselves. One round trip."""
        return self._portal.call(self._async.list_dir, path, timeout=timeout)

    def make_dir(
        self,
        path: BoxPath,
        *,
        mode: int = 0o777,
        parents: bool = True,
        exist_ok: bool = True,
        timeout: float | None = TIMEOUT,
    ) -> None:
        """Make a directory, and with `parents` those on the way to it. One round trip.

        The box's umask is applied to `mode`, which is that of the last directory only. With
        `exist_ok` a directory that is there already is success; anything else there, or without
        `exist_ok` anything at all, raises BoxFileExistsError.
        """
        self._portal.call(
            self._async.make_dir,
            path,
            mode=mode,
            parents=parents,
            exist_ok=exist_ok,
            timeout=timeout,
        )

    def remove_dir(
        self, path: BoxPath, *, recursive: bool = False, timeout: float | None = TIMEOUT
    ) -> None:
        """Remove an empty directory, or with `recursive` one with all it holds. One round trip."""
        self._portal.call(self._async.remove_dir, path, recursive=recursive, timeout=timeout)

    def delete(
        self,
        path: BoxPath,
        *,
        missing_ok: bool = False,
        if_match: Version | None = None,
        timeout: float | None = TIMEOUT,
    ) -> None:
        """Remove a file or a symbolic link itself; for a directory see `remove_dir`.

        `missing_ok`: having nothing there is success. `if_match`: only that version, else
        ConflictError. One round trip.
        """
        self._portal.call(
            self._async.delete, path, missing_ok=missing_ok, if_match=if_match, timeout=timeout
        )

    def exists(
        self, path: BoxPath, *, follow_symlinks: bool = True, timeout: float | None = TIMEOUT
    ) -> bool:
        """Say whether there is anything; False for a link that leads nowhere. One round trip."""
        return self._portal.call(
            self._async.exists, path, follow_symlinks=follow_symlinks, timeout=timeout
        )

    def get_file_info(
        self, path: BoxPath, *, follow_symlinks: bool = True, timeout: float | None = TIMEOUT
    ) -> FileInfo:
        """Return what an object is; of a link itself without `follow_symlinks`. One round trip."""
        return self._portal.call(
            self._async.get_file_info, path, follow_symlinks=follow_symlinks, timeout=timeout
        )

    def move_path(
        self,
        source: BoxPath,
        destination: BoxPath,
        *,
        overwrite: bool = False,
        timeout: float | None = TIMEOUT,
    ) -> None:
        """Rename a file or directory; `destination` is its new path, not a directory to put it in.

        What is at `destination` raises BoxFileExistsError; with `overwrite` a file there is
        replaced in one step, and so is an empty directory by a directory. One round trip.
        """
        self._portal.call(
            self._async.move_path, source, destination, overwrite=overwrite, timeout=timeout
        )

    def copy_path(
        self,
        source: BoxPath,
        destination: BoxPath,
        *,
        recursive: bool = False,
        overwrite: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Copy within the box: content, mode, times, links and extended attributes.

        A directory needs `recursive`. `destination` is the path of the copy, which appears there
        all at once; what is there raises BoxFileExistsError, or with `overwrite` is replaced if it
        is a file. A symbolic link is copied as a link. One round trip.
        """
        self._portal.call(
            self._async.copy_path,
            source,
            destination,
            recursive=recursive,
            overwrite=overwrite,
            timeout=timeout,
        )

    def upload_files(
        self,
        files: Mapping[SourceT, BoxPath] | Iterable[tuple[Source, BoxPath]],
        *,
        parents: bool = True,
        preserve_mtime: bool = False,
        check: bool = True,
        timeout: float | None = None,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> list[TransferResult]:
        """Write many files: local ones (str or path object) or contents (bytes), each to its path.

        Every file is written as `write_file` would, but a local one brings its permission bits,
        and with `preserve_mtime` its mtime. Two round trips for each 8 MiB or 1,000 files; contents
        are read while they are sent. A file that fails does not stop the others: the error of the
        first is raised at the end, with a note of how many there were; with ``check=False`` the
        errors are in the results, which are in the order of `files`.
        """
        return self._portal.call(
            self._async.upload_files,
            files,
            parents=parents,
            preserve_mtime=preserve_mtime,
            check=check,
            timeout=timeout,
            idle_timeout=idle_timeout,
        )

    def download_files(
        self,
        paths: Iterable[BoxPath],
        local_dir: str | os.PathLike[str],
        *,
        preserve_mtime: bool = False,
        check: bool = True,
        timeout: float | None = None,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> list[TransferResult]:
        """Copy files to this machine, each to its path in the workspace, below `local_dir`.

        Directories on the way are made. A file appears under its name when it is complete, with
        its permission bits as far as this process's umask leaves them; nothing is ever written
        outside of `local_dir`. One round trip for all files of up to 64 KiB; one more for each of
        up to 1 MiB, of which eight are under way at once; three in a row for each larger one, which
        is read in pieces. Errors as in `upload_files`.
        """
        return self._portal.call(
            self._async.download_files,
            paths,
            local_dir,
            preserve_mtime=preserve_mtime,
            check=check,
            timeout=timeout,
            idle_timeout=idle_timeout,
        )

    def watch(
        self,
        path: BoxPath = ".",
        *,
        recursive: bool = True,
        timeout: float | None = TIMEOUT,
    ) -> Watch:
        """Watch a directory, with all below it unless `recursive` is false.

        Changes count from when the ``with`` block is entered, those made by this client too.
        `timeout` is for entering.
        """
        return Watch(self._portal, self._async.watch(path, recursive=recursive, timeout=timeout))
