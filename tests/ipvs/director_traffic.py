#!/usr/bin/env python3
"""Generated clients and real servers around a real IPVS kernel, and what went over the wire.

Runs as root of the machine with the kernel to be compared (tests/ipvs/director_against_kernel starts one in user-mode Linux). For each
scenario it makes a network namespace with IPVS, sends frames into it from both sides by packet sockets, records all frames as ext.pcap and
int.pcap, and keeps the kernel's rules and connection table beside them. No TCP stack takes part: every segment is made here, in a
random order that a seed decides.
"""
import os, random, select, socket, struct, subprocess, sys, time

OUT, CONNECTIONS, SEED = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
CLIENT_MAC, SERVER_MAC = bytes.fromhex('525400000101'), bytes.fromhex('525400000300')
ROUTER_MAC = bytes.fromhex('5254000003fe')
DIRECTOR_EXT, DIRECTOR_INT = bytes.fromhex('525400000201'), bytes.fromhex('525400000202')

# name, family, method, scheduler, protocol, more options of -A, options of each -a, timeouts
SCENARIOS = [
    ('nat-wlc', 4, '-m', 'wlc', 'tcp', '', '', None),
    ('nat-remap-wrr', 4, '-m', 'wrr', 'tcp', '', 'port', None),
    ('nat-udp-rr', 4, '-m', 'rr', 'udp', '', '', None),
    ('nat6-lc', 6, '-m', 'lc', 'tcp', '', '', None),
    ('nat6-udp-sh', 6, '-m', 'sh', 'udp', '-b sh-port', '', None),
    ('dr-sed', 4, '-g', 'sed', 'tcp', '', '', None),
    ('dr-mh', 4, '-g', 'mh', 'tcp', '-b mh-port', '', None),
    ('dr6-nq', 6, '-g', 'nq', 'tcp', '', '', None),
    ('dr-ops', 4, '-g', 'wrr', 'udp', '-o', '', None),
    ('tun-ipip-lblc', 4, '-i', 'lblc', 'tcp', '', '', None),
    ('tun-gre-ovf', 4, '-i', 'ovf', 'tcp', '', '--tun-type gre', None),
    ('tun6-fo', 6, '-i', 'fo', 'tcp', '', '', None),
    ('persistent', 4, '-m', 'rr', 'tcp', '-p 300 -M 255.255.255.252', '', None),
    ('persistent6', 6, '-m', 'wrr', 'tcp', '-p 300 -M 122', '', None),
    ('persistent-expiry', 4, '-m', 'rr', 'udp', '-p 4', '', (900, 120, 2)),
    ('thresholds', 4, '-m', 'wlc', 'tcp', '', '-x 9 -y 4', None),
]


def sh(command, check=True):
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f'{command}: {done.stderr}')
    return done.stdout


def checksum(data, start=0):
    if len(data) % 2:
        data += b'\0'
    total = start + sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total


class Net:
    """Addresses and packets of one family."""
    def __init__(self, family):
        self.v6 = family == 6
        self.af = socket.AF_INET6 if self.v6 else socket.AF_INET
        self.vip = '2001:db8:2::59' if self.v6 else '192.168.2.59'
        self.dip = '2001:db8:224::10' if self.v6 else '192.168.224.10'
        self.clients = [(f'2001:db8:2::{n:x}' if self.v6 else f'192.168.2.{n}') for n in range(100, 124)]
        self.servers = [(f'2001:db8:224::{n}' if self.v6 else f'192.168.224.{n}') for n in (11, 12, 13)]

    def raw(self, addr):
        return socket.inet_pton(self.af, addr)

    def pseudo(self, src, dst, proto, length):
        return checksum(self.raw(src) + self.raw(dst) + struct.pack('!HH', proto, length))

    def ip(self, src, dst, proto, segment, ttl=64, tos=0, ident=0, df=True):
        if self.v6:
            return struct.pack('!IHBB', 6 << 28 | tos << 20, len(segment), proto, ttl) + self.raw(src) + self.raw(dst) + segment
        head = struct.pack('!BBHHHBBH', 0x45, tos, 20 + len(segment), ident, 0x4000 if df else 0, ttl, proto, 0) + self.raw(src) + self.raw(dst)
        return head[:10] + struct.pack('!H', 0xffff - checksum(head)) + head[12:] + segment

    def tcp(self, src, sport, dst, dport, seq, ack, flags, data):
        head = struct.pack('!HHIIBBHHH', sport, dport, seq & 0xffffffff, ack & 0xffffffff, 5 << 4, flags, 64000, 0, 0)
        total = checksum(head + data, self.pseudo(src, dst, 6, 20 + len(data)))
        return head[:16] + struct.pack('!H', 0xffff - total) + head[18:] + data

    def udp(self, src, sport, dst, dport, data):
        head = struct.pack('!HHHH', sport, dport, 8 + len(data), 0)
        total = 0xffff - checksum(head + data, self.pseudo(src, dst, 17, 8 + len(data))) or 0xffff
        return head[:6] + struct.pack('!H', total) + data

    def error(self, src, dst, kind, code, rest, about):
        body = struct.pack('!BBHI', kind, code, 0, rest) + about[:500]
        start = self.pseudo(src, dst, 58, len(body)) if self.v6 else 0
        body = body[:2] + struct.pack('!H', 0xffff - checksum(body, start)) + body[4:]
        return self.ip(src, dst, 58 if self.v6 else 1, body, tos=0xc0 if not self.v6 else 0, df=False)

    def frame(self, src, dst, packet):
        return dst + src + (b'\x86\xdd' if self.v6 else b'\x08\x00') + packet

    def read(self, frame):
        """Source, destination, ports and packet of a TCP or UDP frame."""
        kind, packet = frame[12:14], frame[14:]
        if kind == b'\x08\x00' and not self.v6 and packet[0] == 0x45 and packet[9] in (6, 17):
            at, src, dst = 20, packet[12:16], packet[16:20]
        elif kind == b'\x86\xdd' and self.v6 and packet[6] in (6, 17):
            at, src, dst = 40, packet[8:24], packet[24:40]
        else:
            return None
        sport, dport = struct.unpack('!HH', packet[at:at + 4])
        return socket.inet_ntop(self.af, src), sport, socket.inet_ntop(self.af, dst), dport, packet


class Side:
    """One end of a wire into the director: sends frames, and records all that pass."""
    def __init__(self, interface, path):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self.socket.bind((interface, 3))
        self.out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.out.bind((interface, 0))
        self.file = open(path, 'wb')
        self.file.write(struct.pack('<IHHiIII', 0xa1b23c4d, 2, 4, 0, 0, 65535, 1))

    def send(self, frame):
        self.out.send(frame)
        return self.take()

    def take(self, wait=0.0):
        """Records what has come by; gives the frames that the director sent."""
        got = []
        while select.select([self.socket], [], [], wait)[0]:
            frame, address = self.socket.recvfrom(65600)
            now = time.time_ns()
            self.file.write(struct.pack('<IIII', now // 10**9, now % 10**9, len(frame), len(frame)) + frame)
            if address[2] != 4:  # PACKET_OUTGOING
                got.append(frame)
            wait = 0.0
        return got


class Connection:
    def __init__(self, net, protocol, rng, nat):
        self.net, self.protocol, self.rng, self.nat = net, protocol, rng, nat
        self.client, self.port = rng.choice(net.clients), rng.randrange(1024, 65000)
        self.seq, self.ack, self.server, self.last, self.answer, self.outer = rng.getrandbits(32), rng.getrandbits(32), None, None, None, None
        if protocol == 'udp':
            self.steps = rng.choice(['q', 'qa', 'qaq', 'qaqa', 'qe'])
        else:
            body = rng.choice(['', 'd', 'dA', 'dAdA', 'dAE', 'dd', 'dT'])
            end = rng.choice(['Ff', 'fF', 'R', 'r', '', 'F', 'FfA', 'SfF'])
            self.steps = rng.choice(['S', 'Sr', 'SS', 'SsR']) if rng.random() < 0.15 else 'SsA' + body + end

    def packet(self, step):
        net, r = self.net, self.rng
        flags = {'S': 2, 's': 0x12, 'A': 0x10, 'd': 0x18, 'a': 0x10, 'F': 0x11, 'f': 0x11, 'R': 4, 'r': 0x14}.get(step, 0)
        data = b'' if step not in 'dqa' else bytes(r.getrandbits(8) for _ in range((1440 if net.v6 else 1460) if r.random() < 0.04 else r.randrange(1, 200)))
        ident, tos = r.getrandbits(16), r.choice([0, 0, 0x28, 0x02])
        if step == 'T':  # a router within the tunnel, about the outer packet
            kind, code = r.choice([(3, 3), (3, 1), (11, 0)])
            return net.error('192.168.224.1', net.dip, kind, code, 0, self.outer), False
        if step in 'eE':  # an error about what was seen last, from the real server's side or a router's at the client's
            if step == 'e':
                return net.error(self.server[0], self.client, 1 if net.v6 else 3, 4 if net.v6 else 3, 0, self.last), False
            # With DR and TUN the answer never came by the director; its shape is known.
            about = self.answer or net.ip(net.vip, self.client, 6, net.tcp(net.vip, 80, self.client, self.port, self.ack, self.seq, 0x10, bytes(300)))
            router = '2001:db8:2::1' if net.v6 else '192.168.2.1'
            return net.error(router, net.vip, 2 if net.v6 else 3, 0 if net.v6 else 4, 1400, about), True
        from_client = step in 'SAFRdq'
        if from_client:
            src, sport, dst, dport = self.client, self.port, net.vip, 80
        else:
            (src, sport), dst, dport = self.server, self.client, self.port
        if self.protocol == 'tcp':
            seq, ack = (self.seq, self.ack) if from_client else (self.ack, self.seq)
            segment = net.tcp(src, sport, dst, dport, seq, ack, flags, data)
            grown = len(data) + (1 if step in 'SsFf' else 0)
            if from_client:
                self.seq += grown
            else:
                self.ack += grown
            proto = 6
        else:
            segment, proto = net.udp(src, sport, dst, dport, data), 17
        return net.ip(src, dst, proto, segment, ttl=r.choice([64, 63, 128, 2, 64, 64, 255, 1 if r.random() < 0.3 else 64]), tos=tos, ident=ident, df=r.random() < 0.8), from_client


def scenario(number, spec, count, rng):
    name, family, method, scheduler, protocol, service_options, server_options, timeouts = spec
    net, folder, ns = Net(family), os.path.join(OUT, spec[0]), f'd{number}'
    os.makedirs(folder, exist_ok=True)
    sh(f'ip netns add {ns}; ip -n {ns} link set lo up')
    for leg, mac, peer in (('ext', DIRECTOR_EXT, f'e{number}'), ('int', DIRECTOR_INT, f'i{number}')):
        sh(f'ip link add {peer} type veth peer name {leg} netns {ns}')
        sh(f'sysctl -qw net.ipv6.conf.{peer}.disable_ipv6=1', check=False)
        sh(f'ip -n {ns} link set {leg} address {mac.hex(":")}; ip -n {ns} link set {leg} up; ip link set {peer} up; ip link set {peer} promisc on')
    run = f'ip netns exec {ns} '
    sh(run + 'sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.ext.rp_filter=0 net.ipv4.conf.int.rp_filter=0 net.ipv4.conf.all.send_redirects=0 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0')
    sh(run + 'sysctl -qw net.ipv4.icmp_msgs_per_sec=1000000', check=False)
    for addr, leg in (('192.168.2.10/24', 'ext'), ('192.168.2.59/24', 'ext'), ('192.168.224.10/24', 'int'), ('2001:db8:2::10/64', 'ext'), ('2001:db8:2::59/64', 'ext'), ('2001:db8:224::10/64', 'int')):
        sh(f'ip -n {ns} addr add {addr} dev {leg}' + (' nodad' if ':' in addr else ''))
    for addr in net.clients + ['192.168.2.1', '2001:db8:2::1']:
        sh(f'ip -n {ns} neigh replace {addr} lladdr {CLIENT_MAC.hex(":")} dev ext nud permanent')
    macs = {}
    for at, addr in enumerate(net.servers):
        macs[addr] = SERVER_MAC[:5] + bytes([at + 1])
        sh(f'ip -n {ns} neigh replace {addr} lladdr {macs[addr].hex(":")} dev int nud permanent')
    service = ('-t ' if protocol == 'tcp' else '-u ') + (f'[{net.vip}]:80' if net.v6 else f'{net.vip}:80')
    rules = [f'-A {service} -s {scheduler} {service_options}']
    for at, addr in enumerate(net.servers):
        port = 8080 + at if server_options == 'port' else 80
        options = '' if server_options == 'port' else server_options
        rules.append(f'-a {service} -r ' + (f'[{addr}]' if net.v6 else addr) + f':{port} {method} -w {at + 1} {options}')
    for rule in rules:
        sh(run + 'ipvsadm ' + rule)
    if timeouts:
        sh(run + 'ipvsadm --set %d %d %d' % timeouts)
        open(os.path.join(folder, 'set'), 'w').write('%d %d %d' % timeouts)
    open(os.path.join(folder, 'rules'), 'w').write('\n'.join(rules) + '\n')
    ext, inside = Side(f'e{number}', os.path.join(folder, 'ext.pcap')), Side(f'i{number}', os.path.join(folder, 'int.pcap'))
    nat, waiting, active = method == '-m', count, []
    by_client = {}

    def listen(wait):
        for frame in inside.take(wait):
            if frame[12:14] == b'\x08\x00' and frame[14] == 0x45 and frame[23] == 4:
                within = net.read(frame[:14] + frame[34:])
                if within and (within[0], within[1]) in by_client:
                    by_client[within[0], within[1]].outer = frame[14:]
                continue
            seen = net.read(frame)
            if seen and (seen[0], seen[1]) in by_client:
                one = by_client[seen[0], seen[1]]
                one.server, one.last = (seen[2], seen[3]), seen[4]
        for frame in ext.take():
            seen = net.read(frame)
            if seen and (seen[2], seen[3]) in by_client:
                by_client[seen[2], seen[3]].answer = seen[4]

    def step(one):
        what, one.steps = one.steps[0], one.steps[1:]
        if what in 'sfrae' and not (nat and one.server) or what == 'e' and not one.last or what == 'E' and nat and not one.answer:
            return
        if what == 'T' and not one.outer:
            return
        packet, from_client = one.packet(what)
        if from_client:
            ext.send(net.frame(CLIENT_MAC, DIRECTOR_EXT, packet))
        else:
            inside.send(net.frame(macs[one.server[0]] if what != 'T' else ROUTER_MAC, DIRECTOR_INT, packet))
        listen(0.02 if nat and what in 'Sqsad' else 0.001)

    if name.startswith('persistent-expiry'):
        # Bursts with pauses longer and shorter than the template lives.
        for pause in (0, 2, 7, 1.5, 9):
            time.sleep(pause)
            for addr in net.clients[:6]:
                one = Connection(net, protocol, rng, nat)
                one.client, one.steps = addr, 'q'
                by_client[one.client, one.port] = one
                step(one)
    else:
        while waiting or active:
            if waiting and (len(active) < 20 or not active):
                one = Connection(net, protocol, rng, nat)
                if (one.client, one.port) not in by_client:
                    by_client[one.client, one.port] = one
                    active.append(one)
                    waiting -= 1
            one = rng.choice(active)
            if one.steps:
                step(one)
            else:
                active.remove(one)
    listen(0.3)
    open(os.path.join(folder, 'connections'), 'w').write(sh(run + 'ipvsadm -lnc'))
    open(os.path.join(folder, 'listing'), 'w').write(sh(run + 'ipvsadm -ln'))
    for side in (ext, inside):
        side.file.close()
    print(f'{name}: {len(by_client)} connections', flush=True)
    return len(by_client)


rng = random.Random(SEED)
only = sys.argv[4] if len(sys.argv) > 4 else ''
chosen = [s for s in SCENARIOS if only in s[0]]
# Those that wait for persistence to expire have few connections.
many = [s for s in chosen if not s[0].startswith('persistent-expiry')] or chosen
total = sum(scenario(number, spec, max(1, -(-CONNECTIONS // len(many))), rng) for number, spec in enumerate(chosen))
print(f'{total} connections in {len(chosen)} set-ups', flush=True)
