#!/bin/sh
# Installs the Debian packages that tests use, and says what is skipped without them.
#
# Asks first, unless YES or CI is set. Services that the packages bring are neither started now nor
# enabled for the next boot; the policy that prevents it is taken away again.
set -eu

# package | a file it brings | its services | what is skipped without it
WANTED='bird2|/usr/sbin/bird|bird|interoperation with BIRD 2
frr|/usr/lib/frr/bgpd|frr|interoperation with FRR
gobgpd|/usr/bin/gobgpd|gobgpd|interoperation with GoBGP
openbgpd|/usr/sbin/bgpctl|openbgpd|interoperation with OpenBGPD
containernetworking-plugins|/usr/lib/cni/ptp|-|pods attached by the standard CNI plugins
docker.io|/usr/sbin/dockerd|docker docker.socket containerd|docker-compose.yml as a user starts it
docker-compose|/usr/bin/docker-compose|-|docker-compose.yml as a user starts it
debootstrap|/usr/sbin/debootstrap|-|docker-compose.yml as a user starts it
iproute2|/sbin/ip|-|the kernel routes as `ip route` shows them
user-mode-linux|/usr/bin/linux.uml|-|IP-in-IP, loss and delay, on a kernel booted for it
nftables|/usr/sbin/nft|-|the firewall as `nft` shows it
iptables|/usr/sbin/iptables-nft|-|a FORWARD policy as Docker sets it'

POLICY=/usr/sbin/policy-rc.d
YES=${YES:-${CI:-}}

missing() {
    echo "$WANTED" | while IFS='|' read -r package file services skipped; do
        [ -e "$file" ] || [ -e "/usr$file" ] || echo "$package|$services|$skipped"
    done
}

list=$(missing)
[ -n "$list" ] || exit 0
packages=$(echo "$list" | cut -d'|' -f1 | tr '\n' ' ')
services=$(echo "$list" | cut -d'|' -f2 | grep -v '^-$' || true)

skip() {
    echo "$1"
    echo "$list" | while IFS='|' read -r package _ skipped; do
        echo "  without $package these tests are skipped: $skipped"
    done
    exit 0
}

[ -e /etc/debian_version ] && command -v apt-get >/dev/null ||
    skip "Missing, and this is no Debian: install these by hand."
[ "$(id -u)" = 0 ] || skip "Missing: sudo apt-get install $packages"

if [ -z "$YES" ]; then
    [ -t 0 ] || skip "Missing: make test YES=1 installs $packages"
    printf 'apt-get install %s? Their services will not be started. [Y/n] ' "$packages"
    read -r answer
    case $answer in '' | [Yy]*) ;; *) skip "Not installed." ;; esac
fi
echo "installing $packages"

# invoke-rc.d asks this file before it starts anything. One that is there already is put back.
saved=
restore() {
    rm -f "$POLICY"
    [ -z "$saved" ] || mv -f "$saved" "$POLICY"
}
if [ -e "$POLICY" ] || [ -L "$POLICY" ]; then
    saved=$POLICY.before-routelet
    mv -f "$POLICY" "$saved"
fi
trap restore EXIT
trap 'exit 130' INT TERM HUP
printf '#!/bin/sh\n# While the tests of routelet install packages: start nothing.\nexit 101\n' >"$POLICY"
chmod 755 "$POLICY"

export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends $packages; }
log=$(mktemp)
if ! install >"$log" 2>&1; then
    # A fresh machine has no package lists yet.
    { apt-get update -q && install; } >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        rm -f "$log"
        [ -z "${CI:-}" ] || exit 1
        skip "apt-get failed."
    }
fi
rm -f "$log"
if command -v systemctl >/dev/null; then
    for service in $services; do
        systemctl disable "$service" >/dev/null 2>&1 || true
    done
fi
