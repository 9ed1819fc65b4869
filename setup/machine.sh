#!/bin/sh
# What this project needs of the machine itself: Debian 12, 13 or testing on x86-64, root, and a handful of Debian's packages.
# Says clearly what is missing before anything is changed. Does nothing where everything is there.
# `machine.sh page` adds a browser, for the tests of the page. `machine.sh engines` adds Docker and Podman, which only tests need; none of their services is started, now or at the next boot.
set -eu

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || fail "this is $(uname -s); Woodfrog needs Linux"
[ "$(uname -m)" = x86_64 ] || fail "this machine is $(uname -m); only x86_64 is supported"
. /etc/os-release
case "${ID:-}:${VERSION_CODENAME:-}" in
debian:bookworm | debian:trixie | debian:forky) ;;
*) fail "this is ${PRETTY_NAME:-an unknown system}; set-up knows Debian 12, 13 and testing (forky)" ;;
esac
release=$(uname -r)
major=${release%%.*} rest=${release#*.}
minor=${rest%%[!0-9]*}
[ "$major" -gt 5 ] || { [ "$major" -eq 5 ] && [ "$minor" -ge 11 ]; } || fail "kernel $release is too old; Woodfrog needs 5.11 or later"
[ "$(id -u)" -eq 0 ] || fail "dumping and restoring containers takes root; run this as root"

# Packages by the thing that they bring, so that what is there already, from wherever, is left alone.
wanted=
need() { [ -e "$1" ] || command -v "$1" >/dev/null 2>&1 || wanted="$wanted $2"; }
need python3 python3
need runc runc
need containerd containerd
need ctr containerd
need ip iproute2
need iptables iptables
need tar tar
need zstd zstd
need git git
need nsenter util-linux
need hostname hostname
need ps procps
need /bin/busybox busybox-static
need /usr/lib/cni/ptp containernetworking-plugins
if [ "${1:-}" = engines ]; then
    need dockerd docker.io
    need docker "docker.io $([ "$VERSION_CODENAME" = bookworm ] || echo docker-cli)"
    [ -e /usr/libexec/docker/cli-plugins/docker-compose ] || need docker-compose docker-compose
    need podman podman
    need /usr/lib/podman/netavark netavark
    [ "$VERSION_CODENAME" = bookworm ] || need nft nftables
fi
if [ "${1:-}" = page ]; then
    need chromium chromium
    need /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf fonts-dejavu-core
fi
need /etc/ssl/certs/ca-certificates.crt ca-certificates
[ -z "$(command -v python3)" ] || python3 -c 'import ensurepip, venv' 2>/dev/null || wanted="$wanted python3-venv"
[ -n "$(command -v python3)" ] || wanted="$wanted python3-venv"

if [ -n "$wanted" ]; then
    printf 'setup: installing%s\n' "$wanted" >&2
    export DEBIAN_FRONTEND=noninteractive
    # Nobody asked for a dockerd or a containerd that runs: those that are used here are started here.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    # shellcheck disable=SC2086
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted; } >/dev/null ||
        fail "Debian's packages could not be installed; is there a network, and does apt-get update work?"
    # Debian enables a service when its package is installed. What was there before is left as it was.
    case " $wanted " in *' docker.io '*)
        [ -z "$(command -v systemctl)" ] || systemctl disable --quiet docker.service docker.socket 2>/dev/null || true ;;
    esac
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$(python3 --version) is too old; Python 3.11 or later is needed"
