#!/bin/sh
# Build the images of the node worker and the control plane into build/images/*.tar, for `ctr -n k8s.io image import` or a
# registry. Everything is laid ready first (packages by hash, Debian's by its signatures), so that the Dockerfiles neither
# fetch nor run anything; without BASE, a base is made by debootstrap from the mirror that this machine uses.
#
#   BASE=IMAGE       any image with a shell, present or to be pulled (default: made here); for a release by its digest
#   LOCKED=1         for a release: Debian's packages as images/debian.lock names them, and no others
#   NODE_IMAGE, CONTROLPLANE_IMAGE   their names
set -eu
cd "$(dirname "$0")/.."

node_image=${NODE_IMAGE:-registry.local/woodfrog-node:dev}
controlplane_image=${CONTROLPLANE_IMAGE:-registry.local/woodfrog-controlplane:dev}
base=${BASE:-}
python=.venv/bin/python
out=build/images

fail() { printf 'images: %s\n' "$*" >&2; exit 1; }
say() { printf 'images: %s\n' "$*" >&2; }

[ "$(id -u)" -eq 0 ] || fail "CRIU is tried out while the bundle is made, which takes root"
wanted=
command -v buildah >/dev/null || wanted="$wanted buildah"
[ -n "$base" ] || command -v debootstrap >/dev/null || wanted="$wanted debootstrap"
if [ -n "$wanted" ]; then
    say "installing$wanted"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted; } >/dev/null ||
        fail "$wanted could not be installed; install it in your own way"
fi
mkdir -p $out

# Storage of its own, so that nothing of the machine's is touched and `make clean` takes it along. A build directory may lie
# on a file system that overlayfs cannot use as its upper layer; vfs, which copies, works everywhere.
engine() {
    buildah --root "$PWD/$out/storage" --runroot "$PWD/$out/run" --storage-driver "$driver" "$@"
}
driver=overlay
engine info >/dev/null 2>&1 || driver=vfs

lay_ready() { # KIND: the bundle, split into layers
    $python -m nodeworker.host.bundle "$out/$1/bundle" --kind "$1" ${LOCKED:+--locked} >/dev/null
    cp "$out/$1/bundle/sbom.cdx.json" "$out/woodfrog-$1.cdx.json"
    for layer in 1-debian 2-packages 3-app; do
        rm -rf "${out:?}/$1/$layer"
        mkdir -p "$out/$1/$layer"
    done
    bundle=$out/$1/bundle
    cp -al "$bundle/usr" "$bundle/lib" "$out/$1/1-debian"
    cp -al "$bundle/packages" "$out/$1/2-packages"
    cp -al "$bundle/app" "$bundle/bin" "$bundle/release" "$bundle/sbom.cdx.json" "$bundle/debian-packages" "$out/$1/3-app"
}

make_base() {
    base=localhost/woodfrog-base:latest
    engine inspect --type image $base >/dev/null 2>&1 && return
    . /etc/os-release
    mirror=$($python -c 'from nodeworker.host.criu_bundle import sources; print(sources()[0].uri)')
    say "making a base of Debian $VERSION_CODENAME"
    root=$out/base
    rm -rf $root
    debootstrap --variant=minbase "$VERSION_CODENAME" $root "$mirror" >$out/debootstrap.log 2>&1 ||
        fail "debootstrap failed: $(tail -3 $out/debootstrap.log)"
    rm -rf $root/var/cache/apt/* $root/var/lib/apt/lists/* $root/usr/share/doc $root/usr/share/man $root/usr/share/locale
    container=$(engine from scratch)
    engine add --quiet "$container" $root / >/dev/null
    engine commit --quiet "$container" $base >/dev/null
    engine rm "$container" >/dev/null
    rm -rf $root
}

build() { # KIND IMAGE
    say "building $2"
    engine bud --quiet --isolation chroot --layers --pull-never --build-arg BASE="$base" --tag "$2" \
        --file "images/$1/Dockerfile" "$out/$1" >/dev/null
    rm -f "$out/woodfrog-$1.tar"
    engine push --quiet "$2" "docker-archive:$out/woodfrog-$1.tar:$2"
    say "$out/woodfrog-$1.tar: $(du -m "$out/woodfrog-$1.tar" | cut -f1) MB"
}

lay_ready node
lay_ready controlplane
if [ -z "$base" ]; then
    make_base
else
    case $base in *@sha256:*) ;; *) [ -z "${LOCKED:-}" ] || fail "LOCKED=1 takes a BASE by its digest: NAME@sha256:…" ;; esac
    engine inspect --type image "$base" >/dev/null 2>&1 || engine pull --quiet "$base" >/dev/null || fail "$base cannot be pulled"
fi
build node "$node_image"
build controlplane "$controlplane_image"
