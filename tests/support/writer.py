"""Carry out a history below a directory; after each operation that was acknowledged write one
byte to standard output.

    python -m tests.support.writer TOP SEED LENGTH FSYNC

Ends with status 3 at the first operation that fails.
"""

import os
import sys

from tests.support.history import Operation, contents, plan


class Writer:
    def __init__(self, top: str) -> None:
        self.top = top
        self.descriptor = -1

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
            case "write":
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


def main(top: str, seed: str, length: str, fsync: str) -> None:
    os.umask(0o022)
    writer = Writer(top)
    for operation in plan(int(seed), int(length), fsync=fsync == "True"):
        try:
            writer.do(operation)
        except OSError as error:
            print(operation[:2], error, file=sys.stderr)
            sys.exit(3)
        os.write(1, b".")


if __name__ == "__main__":
    main(*sys.argv[1:])
