#!/bin/sh
# Build the images of the node worker and the control plane into build/images/*.tar, for `ctr -n k8s.io image import` or a
# registry. Everything is laid ready first (packages by hash, Debian's by its signatures), so that the Dockerfiles neither
# fetch nor run anything; without BASE, the base is this machine's BusyBox and nothing else.
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
most_mb=120

fail() { printf 'images: %s\n' "$*" >&2; exit 1; }
say() { printf 'images: %s\n' "$*" >&2; }

[ "$(id -u)" -eq 0 ] || fail "CRIU is tried out while the bundle is made, which takes root"
wanted=
command -v buildah >/dev/null || wanted="$wanted buildah"
[ -n "$base" ] || [ -e /bin/busybox ] || wanted="$wanted busybox-static"
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
    base=localhost/woodfrog-busybox:latest
    root=$out/base
    rm -rf $root
    mkdir -p $root/bin $root/etc $root/root $root/tmp $root/usr
    chmod 1777 $root/tmp
    cp /bin/busybox $root/bin/busybox
    chroot $root /bin/busybox --install -s /bin 2>/dev/null || fail "/bin/busybox is not static; install busybox-static, or name a BASE"
    ln -s bin $root/sbin
    ln -s ../bin $root/usr/bin
    ln -s ../bin $root/usr/sbin
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >$root/etc/passwd
    printf 'root:x:0:\nnogroup:x:65534:\n' >$root/etc/group
    printf 'passwd: files\ngroup: files\nhosts: files dns\n' >$root/etc/nsswitch.conf
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
    size=$(($(stat -c %s "$out/woodfrog-$1.tar") / 1000000))
    say "$out/woodfrog-$1.tar: $size MB"
    # docs/decisions/0074 says what holds it.
    [ -n "${BASE:-}" ] || [ $size -le $most_mb ] || fail "the image has more than $most_mb MB; see what grew: du -k $out/$1/bundle | sort -n"
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
