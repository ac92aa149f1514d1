#!/bin/sh
# Makes this container a pod of the node whose process ids it shares: a veth pair as the CNI plugin ptp
# makes it, eth0 here, pod0 on the node. The node's way out becomes its ToR.
set -eu
: "${ADDRESS:?the address of the pod}" "${GATEWAY:?the address of its node inside the pod CIDR}" "${TOR:?the ToR of the node}"

node() { nsenter --net=/proc/1/ns/net "$@"; }

# One of an earlier life of this container.
node ip link delete pod0 2>/dev/null || true
ip link delete eth0 2>/dev/null || true

ip link set lo up
ip link add eth0 type veth peer name pod0 netns 1
node ip address add "$GATEWAY/32" dev pod0
node ip link set pod0 up
node ip route replace "$ADDRESS/32" dev pod0
ip address add "$ADDRESS/32" dev eth0
ip link set eth0 up
ip route add "$GATEWAY/32" dev eth0
ip route add default via "$GATEWAY"

# Docker's own leads to the machine that Docker runs on, which keeps networks apart.
node ip route replace default via "$TOR"

echo "attached: $ADDRESS"
trap 'exit 0' TERM INT
while :; do
    sleep 3600 &
    wait $! || true
done
