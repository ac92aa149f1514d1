#!/bin/sh
# zebra and bgpd with the file that vtysh reads, too: `vtysh -c 'show bgp summary'` works.
set -eu
install -d -o frr -g frr /run/frr
/usr/lib/frr/zebra -d -A 127.0.0.1 -f /etc/frr/frr.conf
exec /usr/lib/frr/bgpd -A 127.0.0.1 -f /etc/frr/frr.conf
