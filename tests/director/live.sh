#!/usr/bin/env bash
# live.sh METHOD LVSCOPE: the built-in director between a client and two real servers, in network namespaces.
# METHOD is nat (two legs) or dr (one segment). To be run by: unshare -rnm --kill-child -pf bash tests/director/live.sh …
# Needs ip, python3 and curl; leaves nothing behind, for everything ends with the namespaces.
set -eu
method=$1 lvscope=$2
mount -t tmpfs run /run && mkdir -p /run/netns && mount -t sysfs sys /sys
for n in client director web1 web2; do ip netns add $n; ip -n $n link set lo up; done
for b in ext int; do ip link add br-$b type bridge; ip link set br-$b up; done

# leg NAMESPACE INTERFACE BRIDGE [ADDRESS]
leg() {
  ip link add $1-$2 type veth peer name peer0
  ip link set peer0 netns $1; ip -n $1 link set peer0 name $2; ip -n $1 link set $2 up
  ip link set $1-$2 master br-$3; ip link set $1-$2 up
  [ $# -lt 4 ] || ip -n $1 addr add $4 dev $2
}
leg client eth0 ext 192.168.2.100/24
leg director ext ext; leg director int int
if [ $method = nat ]; then
  servers='192.168.224.11 192.168.224.12' option=-m
  leg web1 eth0 int 192.168.224.11/24; leg web2 eth0 int 192.168.224.12/24
  for w in web1 web2; do ip -n $w route add default via 192.168.224.10; done
else
  servers='192.168.2.11 192.168.2.12' option=-g
  leg web1 eth0 ext 192.168.2.11/24; leg web2 eth0 ext 192.168.2.12/24
  for w in web1 web2; do
    ip netns exec $w sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
    ip -n $w addr add 192.168.2.59/32 dev lo
  done
fi
rules() {
  echo "-A -t 192.168.2.59:80 -s rr"
  for s in "$@"; do echo "-a -t 192.168.2.59:80 -r $s:80 $option -w 1"; done
}
rules $servers > /run/rules

cat > /run/web.py <<'PY'
import http.server, socketserver, sys
big = b'x' * 20_000_000
class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = big if self.path == '/big' else sys.argv[1].encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True; request_queue_size = 1024; daemon_threads = True
Server(('0.0.0.0', 80), Web).serve_forever()
PY
cat > /run/many.py <<'PY'
import concurrent.futures, socket
def one(_):
    for attempt in range(3):
        try:
            with socket.create_connection(('192.168.2.59', 80), timeout=10) as s:
                s.sendall(b'GET / HTTP/1.0\r\n\r\n')
                got = b''
                while part := s.recv(4096): got += part
                return b'web' in got
        except OSError: pass
    return False
with concurrent.futures.ThreadPoolExecutor(100) as pool: served = sum(pool.map(one, range(200)))
print(f'{served} of 200 served')
PY
for w in web1 web2; do ip netns exec $w python3 /run/web.py $w & done
client() { ip netns exec client "$@"; }
get() { client curl -sS -m 5 http://192.168.2.59/ || true; }
for i in $(seq 50); do ip netns exec web1 bash -c 'exec 3<>/dev/tcp/127.0.0.1/80' 2>/dev/null && break; sleep 0.1; done

ip netns exec director "$lvscope" director run --rules /run/rules -i ext -i int \
  --address ext:192.168.2.10/24 --address int:192.168.224.10/24 > /run/summary 2> /run/news & director=$!
for i in $(seq 50); do grep -q 'director on' /run/news && break; sleep 0.1; done

[ "$(for i in 1 2 3 4; do get; echo; done | sort | uniq -c | awk '{print $1 $2}' | xargs)" = '2web1 2web2' ] && echo both servers answer
client curl -sS -m 30 -o /dev/null -w '%{size_download} bytes\n' http://192.168.2.59/big
set -- $servers
rules $1 > /run/rules; kill -HUP $director; sleep 0.3
echo "after removal: $(get) $(get)"
rules $servers > /run/rules; kill -HUP $director; sleep 0.3
echo "after return: $(for i in 1 2; do get; echo; done | sort | xargs)"
client python3 /run/many.py
wrong=0
for n in client web1 web2; do
  wrong=$((wrong + $(ip netns exec $n awk '/^Tcp: [0-9]/ { print $NF }' /proc/net/snmp)))
done
echo "wrong checksums $wrong"
kill -INT $director; wait $director
cat /run/summary /run/news
