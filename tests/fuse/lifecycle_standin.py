"""`devboxfs` with a box that is a dictionary: a real mount, a real process, no box behind it.

Run as a program it takes the arguments of `devboxfs`; the daemon it starts is this program too.
STANDIN in the environment chooses what goes wrong.
"""

import errno
import os
import stat
import sys

import pyfuse3
import trio

from devboxfs import mountpoint
from devboxfs.config import ExitCode, MountError
from devboxfs.fuse.boundary import handler

GREETING = b"hello\n"


class Memory(pyfuse3.Operations):
    """A root directory, the file `hello` in it, and whatever is created: written bytes are kept."""

    def __init__(self):
        super().__init__()
        self.names = {b"hello": 2}
        self.contents = {2: GREETING}

    def attributes(self, inode):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o755 if inode == 1 else stat.S_IFREG | 0o644
        entry.st_size = len(self.contents.get(inode, b""))
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.st_nlink = 1
        return entry

    @handler
    async def lookup(self, parent_inode, name, ctx):
        if name == b"stuck":
            await trio.sleep_forever()
        if name not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such name")
        return self.attributes(self.names[name])

    @handler
    async def getattr(self, inode, ctx):
        return self.attributes(inode)

    @handler
    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode)

    @handler
    async def create(self, parent_inode, name, mode, flags, ctx):
        if name == b"bug":
            raise ZeroDivisionError
        inode = self.names.setdefault(name, len(self.names) + 2)
        self.contents[inode] = b""
        return pyfuse3.FileInfo(fh=inode), self.attributes(inode)

    @handler
    async def read(self, fh, off, size):
        return self.contents[fh][off : off + size]

    @handler
    async def write(self, fh, off, buf):
        old = self.contents[fh]
        self.contents[fh] = old[:off].ljust(off, b"\0") + buf + old[off + len(buf) :]
        return len(buf)

    @handler
    async def opendir(self, inode, ctx):
        return inode

    @handler
    async def readdir(self, fh, start_id, token):
        for number, (name, inode) in enumerate(self.names.items(), 1):
            if number > start_id and not pyfuse3.readdir_reply(
                token, name, self.attributes(inode), number
            ):
                return

    @handler
    async def statfs(self, ctx):
        return pyfuse3.StatvfsData()


async def serve(config, ready, control):
    mode = os.environ.get("STANDIN", "")
    if mode == "refused":
        raise MountError(f"There is no box {config.name}: create it first.", ExitCode.NO_BOX)
    if mode == "bug":
        raise ZeroDivisionError
    if mode == "killed":
        os.kill(os.getpid(), 9)
    if mode == "silent":
        await trio.sleep_forever()
    control.say("It is the stand-in; its files are nowhere.")
    operations = Memory()
    pyfuse3.init(operations, str(config.mountpoint), config.fuse_options)
    left = 3 if mode == "unreachable" else 0

    async def status(params, progress):
        return {"state": "online", "state_seconds": 1.0, "pending_operations": left}

    async def sync(params, progress):
        progress({"operations": 2, "bytes": 10})
        if mode == "unreachable":
            raise MountError("The box is unreachable.", ExitCode.PENDING)
        return {}

    async def unmount(params, progress):
        if mode == "stubborn":
            await trio.sleep_forever()
        if mode == "dies":
            os.kill(os.getpid(), 9)
        progress({"operations": 1, "bytes": 5})
        await trio.to_thread.run_sync(mountpoint.unmount, config.mountpoint)
        if mode == "dies unmounted":
            os.kill(os.getpid(), 9)
        return {"operations": left, "bytes": 7 * left, "reason": "offline" if left else ""}

    for operation in (status, sync, unmount):
        control.register(operation.__name__, operation)

    async with trio.open_nursery() as nursery:

        async def stop():
            await control.wait_stop()
            pyfuse3.terminate()

        nursery.start_soon(stop)
        ready()
        await pyfuse3.main()
        nursery.cancel_scope.cancel()
    pyfuse3.close(unmount=False)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--daemon"]:
        from devboxfs.daemon import background_main

        background_main(int(sys.argv[2]), serve)
    from devboxfs.cli import main

    main(serve=serve, daemon_command=[sys.executable, __file__, "--daemon"])
