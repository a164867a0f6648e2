#!/usr/bin/env bash
# Mount a box of the embedded engine in ./demo-box and show what a mount does.
#
# The mount stays for the user to try; with DEMO_ONCE=1 it is taken away at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mount=demo-box
devboxfs=.venv/bin/devboxfs

say() { printf '\n%s\n' "$*"; }
show() {
    printf '  $ %s\n' "$*"
    "$@" 2>&1 | sed 's/^/    /'
}

say "1. Mount the box \"my-box\". Nothing is configured, so it is a directory on this machine."
if mountpoint -q "$mount" && ls "$mount" >/dev/null; then
    echo "  It is mounted already."
else
    show "$devboxfs" mount --embedded --mkdir my-box "$mount"
fi
[ -z "${DEMO_ONCE:-}" ] || trap '"$devboxfs" umount "$mount" >/dev/null || true' EXIT
box=$(.venv/bin/python - <<'PYTHON'
from sealos_devbox import Devbox, DevboxConfig

with Devbox(DevboxConfig(embedded=True)) as devbox, devbox.get("my-box") as box:
    print(box.run(["pwd"]).stdout, end="")
PYTHON
)

say "2. Write a file through the mount; it is in the box."
echo "Written on $(date '+%F at %T') by $(id -un)." >"$mount/hello.txt"
show "$devboxfs" sync "$mount"
show cat "$box/hello.txt"

say "3. Write a file in the box; it is in the mount."
echo "Written in the box on $(date '+%F at %T')." >"$box/reply.txt"
arrived() { cmp --silent "$box/reply.txt" "$mount/reply.txt"; }
for _ in {1..100}; do arrived && break || sleep 0.05; done
arrived || { echo "  It did not arrive within five seconds."; exit 1; }
show cat "$mount/reply.txt"

say "4. Work with git in the mount."
[ -d "$mount/.git" ] || show git -C "$mount" init --quiet --initial-branch main
show git -C "$mount" add --all
show git -C "$mount" -c user.name=Demo -c user.email=demo@example.org commit --quiet \
    --message hello
show git -C "$mount" log --oneline --stat --max-count 1

say "5. Ask how the mount is."
show "$devboxfs" status "$mount"

if [ -n "${DEMO_ONCE:-}" ]; then
    say "6. Unmount."
    trap - EXIT
    show "$devboxfs" umount "$mount"
    exit
fi

say "The box stays mounted. Go on with:"
echo "  cd $mount                     work in it with any program"
echo "  $devboxfs umount $mount    bring everything into the box and unmount it"
