"""The command `devboxfs`: arguments, texts, exit codes.

====  =========================================================================
  0   done; after umount and sync: everything is in the box
  1   it failed for a reason that has no number of its own
  2   wrong arguments
  3   the mount point cannot be used
  4   this machine, or this user, cannot mount with FUSE
  5   the mount point is mounted already, or its mount is in use
  6   there is no such box, or it cannot be used
  7   changes are not in the box yet; the journal keeps them
  8   no box is mounted there
  9   no answer in time
 10   the daemon ended unexpectedly
 11   there is one of that name already
 12   the service does not accept the credential, or it has no right to do that
 13   the service or the box cannot be reached, or failed itself
 14   the state of the box does not allow that now
 15   the account or the quota does not allow that, or requests came too fast
 16   the service cannot do that
 17   there is no such release, port, variable or profile
 18   the service, profile or credential that is meant cannot be used
130   interrupted from the keyboard
====  =========================================================================

The table is `config.EXIT_CODES`, which `--help` shows. Nothing heavy is imported before it is
needed: `status` starts without trio.

Each module here defines commands on the group in group.py, which knows which module has which and
imports it on demand; what they do is done by the modules below this package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from devboxfs.cli.group import Seams, commands
from devboxfs.cli.terminal import complain
from devboxfs.config import ExitCode, MountError

if TYPE_CHECKING:
    from devboxfs.daemon import Serve

__all__ = ["main"]


def main(
    argv: Sequence[str] | None = None,
    *,
    serve: Serve | None = None,
    daemon_command: Sequence[str] | None = None,
) -> NoReturn:
    """Run the command and exit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_run(arguments, Seams(serve, daemon_command)))


def _run(arguments: list[str], seams: Seams) -> int:
    try:
        outcome = commands.main(arguments, prog_name="devboxfs", standalone_mode=False, obj=seams)
    except click.ClickException as error:
        error.show()
        return int(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        complain("Interrupted.")
        return ExitCode.INTERRUPTED
    except MountError as error:
        complain(error.text)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output is gone; what is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    return int(outcome or 0)
