"""What a box says of itself to a shell."""

from __future__ import annotations

import hashlib
from typing import Final

from sealos_devbox._protocol import shell
from sealos_devbox._transport.shell.runner import Runner
from sealos_devbox._version import __version__
from sealos_devbox.errors import ConnectError, ProtocolError
from sealos_devbox.types import PeerInfo

__all__ = ["probe"]

MARK: Final = b"//devbox//"

_SCRIPT: Final = (
    b"say() { printf '%s=%s\\n' '" + MARK + b'\' "$1"; }\n'
    b'say "$(pwd -P)"; say "$(id -u)"; say "$(id -g)"; say "$(id -G)"; say "$(umask)"\n'
    b'say "$(hostname 2>/dev/null || cat /proc/sys/kernel/hostname)"\n'
    b'say "$(date +%s)"\n'
    b'say "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"\n'
    b'say "$(cut -d" " -f22- /proc/1/stat 2>/dev/null | cut -d" " -f1)"\n'
    b'say "$(find . -maxdepth 0 -printf gnu 2>/dev/null)"\n'
    b'say "$(for t in find stat dd head base64 sha256sum touch truncate mv ln readlink cmp mkfifo; '
    b'do command -v $t >/dev/null 2>&1 || printf "%s " $t; done)"\n'
    b"stat -f -c '%s %S %b %f %a %c %d %l' .\n"
)

_NEEDED: Final = frozenset(("find", "stat", "dd", "head", "touch", "mv"))


async def probe(runner: Runner) -> tuple[PeerInfo, shell.Dialect]:
    """Ask the box; raises ConnectError when it lacks what every operation needs."""
    output = await runner.run(shell.PRELUDE + _SCRIPT)
    lines = output.stdout.split(b"\n")
    said = [line[len(MARK) + 1 :] for line in lines if line.startswith(MARK + b"=")]
    if len(said) != 11:
        raise ConnectError(
            f"no POSIX shell answers: {(output.stderr or output.stdout)[:300]!r}", retryable=False
        )
    root, uid, gid, groups, umask, hostname, clock, boot_id, started, gnu, missing = said
    lacking = {name.decode() for name in missing.split()}
    if lacking & _NEEDED:
        raise ConnectError(
            f"the box lacks {', '.join(sorted(lacking & _NEEDED))}",
            hint="Install coreutils and findutils, or busybox, in its image.",
            retryable=False,
        )
    dialect = shell.GNU if gnu == b"gnu" else shell.BUSYBOX
    described = await runner.run(shell.PRELUDE + dialect.describe([b""]))
    try:
        [(_, root_attributes)] = dialect.parse(described.stdout)
        usage = shell.parse_usage(lines[-2])
        identity = b"\n".join((boot_id, started))
        peer = PeerInfo(
            protocol=1,
            version=f"shell {__version__}",
            # `weak`: changes are neither atomic nor done exactly once.
            capabilities=frozenset({"apply", "watch", "exec", "weak", f"tools:{dialect.name}"}),
            root=root,
            uid=int(uid),
            gid=int(gid),
            groups=[int(group) for group in groups.split()],
            umask=int(umask, 8),
            hostname=hostname.decode(errors="replace"),
            clock_ns=int(clock) * 1_000_000_000,
            boot_id=boot_id.decode(),
            epoch=hashlib.sha256(identity).hexdigest()[:32],
            pid=0,
            helper=b"",
            window=0,
            max_requests=1,
            max_payload=runner.max_data,
            root_attr=root_attributes,
            statvfs=usage,
        )
    except ValueError as error:
        raise ProtocolError(f"the box described itself strangely: {error}") from error
    return peer, dialect
