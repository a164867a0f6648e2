"""Carry out a history below a directory; after each operation that was acknowledged write one
byte to standard output.

    python -m tests.support.writer TOP SEED LENGTH FSYNC        plan() of history.py
    python -m tests.support.writer TOP ARCHIVE ONLINE           script() of script.py

Ends with status 3 at the first operation that fails.
"""

import errno
import os
import subprocess
import sys
import time

from tests.support.history import Operation, contents, plan
from tests.support.script import script


class Writer:
    def __init__(self, top: str) -> None:
        self.top = top
        self.descriptor = -1
        self.archive = ""

    def do(self, operation: Operation) -> None:
        kind, name, *rest = operation
        path = os.path.join(self.top, str(name))
        match kind:
            case "mkdir":
                os.mkdir(path, rest[0])
            case "create":
                self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, rest[0])
            case "open":
                self.descriptor = os.open(path, os.O_RDWR)
            case "open-append":
                self.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            case "append":
                data = contents(*rest)
                assert os.write(self.descriptor, data) == len(data)
            case "write" | "scribble":
                data = contents(*rest[1:])
                written = os.pwrite(self.descriptor, data, rest[0])
                assert written == len(data)
            case "truncate":
                os.ftruncate(self.descriptor, rest[0])
            case "chmod":
                os.chmod(path, rest[0])
            case "utime":
                os.utime(path, ns=(rest[0], rest[0]))
            case "fsync":
                os.fsync(self.descriptor)
            case "close":
                os.close(self.descriptor)
            case "fsyncdir":
                directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                os.fsync(directory)
                os.close(directory)
            case "setxattr":
                os.setxattr(path, rest[0], rest[1].encode())
            case "removexattr":
                os.removexattr(path, rest[0])
            case "unpack":
                tar = ["tar", "xpf", self.archive, "--no-same-owner", "-C", path]
                if subprocess.run(tar, check=False, stderr=subprocess.DEVNULL).returncode:
                    raise OSError(errno.EIO, "tar failed")
            case "wait":
                time.sleep(rest[0])
            case "symlink":
                os.symlink(rest[0], path)
            case "rename":
                os.rename(path, os.path.join(self.top, rest[0]))
            case "link":
                os.link(path, os.path.join(self.top, rest[0]))
            case "unlink":
                os.unlink(path)
            case "rmdir":
                os.rmdir(path)
            case _:
                raise AssertionError(operation)


def main(top: str, *chosen: str) -> None:
    os.umask(0o022)
    writer = Writer(top)
    if len(chosen) == 2:
        writer.archive = chosen[0]
        operations = script(online=chosen[1] == "True")
    else:
        seed, length, fsync = chosen
        operations = plan(int(seed), int(length), fsync=fsync == "True")
    for operation in operations:
        try:
            writer.do(operation)
        except OSError as error:
            print(operation[:2], error, file=sys.stderr)
            sys.exit(3)
        os.write(1, b".")


if __name__ == "__main__":
    main(*sys.argv[1:])
