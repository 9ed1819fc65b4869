#!/bin/sh
# Make .venv from the pinned and hashed requirements, aside, and put it in place as a whole.
set -eu
cd "$(dirname "$0")/.."

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

stamp=.venv/woodfrog-requirements
current=$(cat requirements/dev.txt pyproject.toml setup/venv.sh | sha256sum)
[ "$(cat $stamp 2>/dev/null)" = "$current" ] && exit 0

printf 'setup: making .venv\n' >&2
rm -rf .venv.old
[ ! -e .venv ] || mv .venv .venv.old
# A virtual environment holds its own path, so it is made where it will be; until the stamp is there it does not count.
trap 'rm -rf .venv; [ ! -e .venv.old ] || mv .venv.old .venv' EXIT
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt ||
    fail "the Python packages could not be installed; is there a network?"
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ||
    fail "the project itself could not be installed"
printf '%s' "$current" >$stamp
trap - EXIT
rm -rf .venv.old
