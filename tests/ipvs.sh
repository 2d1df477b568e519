#!/usr/bin/env bash
# Compares `lvscope snapshot` with ipvsadm on a real kernel with IPVS, field by field. Runs inside tests/real-ipvs: make test-ipvs.
set -eu
lvscope=$1
ip link add d0 type dummy; ip link set d0 up; ip addr add 10.0.0.1/24 dev d0; ip -6 addr add 2001:db8::1/64 dev d0 nodad
ipvsadm -A -t 10.0.0.1:80 -s rr -p 10 -M 255.255.255.0
ipvsadm -a -t 10.0.0.1:80 -r 10.0.0.11:8080 -m -w 3 -x 10 -y 5
ipvsadm -a -t 10.0.0.1:80 -r 10.0.0.12:80 -g -w 0
ipvsadm -A -u 10.0.0.1:53 -s sh -b sh-fallback,sh-port
ipvsadm -a -u 10.0.0.1:53 -r 10.0.0.11 -i -w 1
ipvsadm -A -f 7 -s wlc -p 300
ipvsadm -a -f 7 -r 10.0.0.13:0 -g -w 1
ipvsadm -A -t '[2001:db8::1]:443' -s mh -b mh-port
ipvsadm -a -t '[2001:db8::1]:443' -r '[2001:db8::11]:443' -m -w 2
ipvsadm -A -t 10.0.0.1:81 -s lc
ipvsadm --set 800 100 200
ipvsadm --start-daemon master --mcast-interface d0 --syncid 3
# A connection of each service that can have one: of the director itself, to somebody who does not answer.
(timeout 1 bash -c 'exec 3<>/dev/tcp/10.0.0.1/80' || true) 2>/dev/null
# The kernel adds its counters up every two seconds.
sleep 3
"$lvscope" snapshot -o snapshot.json
ipvsadm -Sn > saved.txt; ipvsadm -Ln > list.txt; ipvsadm -Ln --stats --exact > stats.txt; ipvsadm -Ln --thresholds > thresholds.txt
ipvsadm -L --timeout > timeout.txt; ipvsadm -L --daemon > daemon.txt; ipvsadm -Lnc > connections.txt
echo collected
