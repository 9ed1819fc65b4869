#!/bin/sh
# What tests of the page need: Debian's Chromium, and Python packages that lie beside .venv, so that no other test loads their plugins.
set -eu
cd "$(dirname "$0")/.."
setup/machine.sh page

stamp=build/page/woodfrog-requirements
current=$(cat requirements/page.txt setup/page.sh | sha256sum)
[ "$(cat $stamp 2>/dev/null)" = "$current" ] && exit 0

printf 'setup: making build/page\n' >&2
rm -rf build/page
mkdir -p build/page
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target build/page -r requirements/page.txt || {
    printf 'setup: the Python packages of the page'"'"'s tests could not be installed; is there a network?\n' >&2
    exit 1
}
printf '%s' "$current" >$stamp
