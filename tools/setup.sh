#!/bin/sh
# Make this checkout ready to run: system packages, .venv, the project itself, the box helper.
#
# It may be run any number of times and from several shells at once; it does only what is missing.
# PYTHON=... chooses the interpreter of a new .venv.
set -eu
umask 022
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

[ "$(uname -s)" = Linux ] || die "devboxfs needs Linux; on other systems use the SDK alone."

if [ "$(id -u)" = 0 ]; then
    as_root=
elif has sudo && sudo -n true 2>/dev/null; then
    as_root='sudo -n'
else
    as_root=none
fi

# A Python below a private home directory cannot be executed by other users, and a mount is tested
# as one: so the system's own comes first.
suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; }
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        has "$PYTHON" && suits "$PYTHON" || die "$PYTHON is not a Python 3.11 to 3.14."
        command -v "$PYTHON"
        return
    fi
    for name in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if has "$name" && suits "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# What is missing is found by looking for the thing itself, not by asking the package manager: who
# has a compiler or a Python of their own needs no other.
missing_packages() {
    has fusermount3 || echo fuse3
    if ! has pkg-config; then
        echo pkg-config libfuse3-dev
    elif ! pkg-config --exists fuse3; then
        echo libfuse3-dev
    fi
    has cc && [ -e /usr/include/stdio.h ] || echo gcc libc6-dev
    if [ -z "$python" ]; then
        echo python3 python3-venv python3-dev
    else
        "$python" - <<'PYTHON'
import importlib.util
import sysconfig
from pathlib import Path

if not importlib.util.find_spec("ensurepip"):
    print("python3-venv")
if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
    print("python3-dev")
PYTHON
    fi
    # The tests run these on a mount.
    for pair in git:git make:make rsync:rsync vim:vim sqlite3:sqlite3 pgrep:procps \
        inotifywait:inotify-tools getfattr:attr fio:fio stress-ng:stress-ng dbench:dbench \
        fs_mark:fsmark bonnie++:bonnie++ ip:iproute2; do
        has "${pair%%:*}" || echo "${pair##*:}"
    done
}

python=$(find_python) || python=
[ -n "$python" ] || [ -z "${PYTHON:-}" ] || exit 1
packages=$(missing_packages | tr '\n' ' ')
if [ -n "$packages" ]; then
    if ! has apt-get || [ "$as_root" = none ]; then
        die "Please install what these Debian packages contain, then try again: $packages"
    fi
    say "installing $packages"
    log=$(mktemp)
    # shellcheck disable=SC2086 # lists of words
    { $as_root apt-get update &&
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends $packages; } >"$log" 2>&1 </dev/null ||
        { cat "$log" >&2; die "apt-get could not install these packages; its output is above."; }
    rm -f "$log"
    python=$(find_python) ||
        die "This system's Python is older than 3.11: install a newer one and name it in PYTHON."
fi

# The udev rule of the package fuse3 opens the device to all users; containers and small virtual
# machines run no udev.
if [ ! -e /dev/fuse ]; then
    say "/dev/fuse does not exist here, so nothing can be mounted: load the kernel module fuse," \
        "or start the container with --device /dev/fuse --cap-add SYS_ADMIN."
elif [ "$(stat -c %a /dev/fuse)" != 666 ]; then
    if [ "$as_root" = none ]; then
        [ -r /dev/fuse ] && [ -w /dev/fuse ] ||
            say "/dev/fuse is closed to you, so nothing can be mounted: run chmod 0666 /dev/fuse as root."
    else
        $as_root chmod 0666 /dev/fuse || say "/dev/fuse is closed to ordinary users."
    fi
fi

exec 9>.setup.lock
if has flock; then flock 9; fi

pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input "$@" 9>&-; }

# The paths inside .venv are absolute, so a checkout that was moved needs a new one, as one does
# whose Python has gone.
place="$(pwd) ${PYTHON:-}"
if [ "$(cat .venv/.place 2>/dev/null)" != "$place" ] || ! .venv/bin/python -c '' 2>/dev/null; then
    say "making .venv with $python"
    "$python" -m venv --clear .venv
    printf '%s\n' "$place" >.venv/.place
fi

wanted=$(cat requirements.lock tools/go.lock pyproject.toml | sha256sum)
if [ "$(cat .venv/.installed 2>/dev/null)" != "$wanted" ]; then
    if ! .venv/bin/python tools/build_helper.py --print-go >/dev/null; then
        say "fetching Go, which this machine does not have"
        pip install --require-hashes --requirement tools/go.lock
    fi
    say "installing what requirements.lock names, which takes a minute the first time"
    # Go has nothing to wait for: its compiler and the C compiler run side by side.
    .venv/bin/python tools/build_helper.py 9>&- &
    # Debug information about pyfuse3's generated C would take a third of its compile time.
    CFLAGS="-g0 ${CFLAGS:-}" pip install --require-hashes --requirement requirements.lock
    wait $!
    pip install --no-deps --no-build-isolation --editable .
    printf '%s\n' "$wanted" >.venv/.installed
fi

.venv/bin/python tools/build_helper.py
