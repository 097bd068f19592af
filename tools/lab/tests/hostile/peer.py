"""A peer with a valid key that says what it is told to say, true or not.

Handshakes and seals are those of ../daemon/noise_peer.py. Gateways open the sessions; this one answers. Orders come as
JSON, one a line, on a socket of the file system, and each is answered by a line:

    {"do": "say", "to": "gw-a", "message": {...}}    one message
    {"do": "frame", "to": "gw-a", "frame": "hex"}    one frame
    {"do": "flood", "to": "gw-a", "message": {...}, "rate": 20000, "seconds": 6, "ports": 16}
                                                     the same message again and again, in turn from several ports
    {"do": "part", "to": "gw-a"}                     goodbye; the gateway opens another session when it likes to
    {"do": "report"}                                 what has come so far, and how many sessions there were
"""

import argparse
import collections
import json
import os
import select
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "daemon"))

from noise_peer import CONTROL, DATA, DATA_ASIDE, FRAME, INITIATION, PAD, Peer, record

# More often than gateways expect of each other.
SIGN_OF_LIFE = 2
# A flood is sent in portions, so many a second.
PORTIONS = 500
BUFFER = 8 << 20


class Link:
    """One gateway, and the session with it if there is one."""

    def __init__(self, options, endpoint):
        self.options, self.endpoint = options, endpoint
        self.session, self.sessions = None, 0
        self.frames, self.messages = collections.Counter(), collections.Counter()
        self.flooded = 0

    def take(self, datagram):
        first, index = struct.unpack(">II", datagram[:8])
        kind = first >> 24 & 0xF
        if kind == INITIATION:
            session = Peer(self.options, self.endpoint)
            session.respond(datagram)
            self.session, self.sessions = session, self.sessions + 1
        elif kind in (DATA, DATA_ASIDE) and self.session and index == self.session.session:
            for kind, body in self.session.records(datagram):
                self.count(kind, body)

    def count(self, kind, body):
        if kind == CONTROL:
            self.messages[json.loads(body)["msg_type"]] += 1
        elif kind == FRAME:
            self.frames[":".join(f"{octet:02x}" for octet in body[:6])] += 1
        elif kind != PAD:
            # Frames that did not come whole; whom they are for is not looked up.
            self.frames["in pieces"] += 1

    def say(self, message):
        self.session.send(CONTROL, json.dumps(message).encode())

    def flood(self, message, rate, seconds, ports):
        """Each port has a lane, as each worker of a gateway has: the numbers of one lane stay in order."""
        body = record(CONTROL, json.dumps(message).encode())
        endpoints = [self.session.open(0) for _ in range(ports)]
        begin, portion = time.monotonic(), 0
        while portion < seconds * PORTIONS:
            portion += 1
            for _ in range(rate // PORTIONS):
                lane = self.flooded % ports
                endpoints[lane].sendto(self.session.seal(body, DATA_ASIDE, lane), self.session.to)
                self.flooded += 1
            time.sleep(max(0, begin + portion / PORTIONS - time.monotonic()))
        return {"sent": self.flooded, "took": time.monotonic() - begin}

    def report(self):
        return {"sessions": self.sessions, "frames": self.frames, "messages": self.messages}


def obey(links, order):
    what = order["do"]
    if what == "report":
        return {name: link.report() for name, link in links.items()}
    link = links[order["to"]]
    if what == "say":
        link.say(order["message"])
    elif what == "frame":
        link.session.send(FRAME, bytes.fromhex(order["frame"]))
    elif what == "flood":
        return link.flood(order["message"], order["rate"], order["seconds"], order["ports"])
    elif what == "part":
        link.say({"msg_type": "bye"})
        link.session = None
    else:
        return {"error": "unknown"}
    return {}


def main():
    parser = argparse.ArgumentParser()
    for name in ["key", "listen", "orders"]:
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--gateway", nargs=3, action="append", metavar=("NAME", "ADDRESS", "KEY"))
    options = parser.parse_args()
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    endpoint.bind((options.listen, 5800))
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    links, sources = {}, {}
    for name, address, key in options.gateway:
        about = argparse.Namespace(
            key=options.key, peer_key=key, preshared=None, without_aes=False, network=0,
            listen=options.listen, address=address, name=name,
        )
        links[name] = sources[address] = Link(about, endpoint)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(options.orders)
    listener.listen()
    master, _ = listener.accept()
    lines = master.makefile("r")
    next_sign = time.monotonic()
    while True:
        readable, _, _ = select.select([endpoint, master], [], [], 0.5)
        if endpoint in readable:
            datagram, (address, _) = endpoint.recvfrom(65536)
            sources[address].take(datagram)
        if master in readable:
            # One order at a time, so nothing is left in the buffer of `lines`.
            line = lines.readline()
            if not line:
                return
            master.sendall(json.dumps(obey(links, json.loads(line))).encode() + b"\n")
        if time.monotonic() >= next_sign:
            next_sign = time.monotonic() + SIGN_OF_LIFE
            for link in links.values():
                if link.session:
                    link.session.send(PAD, bytes(4))


if __name__ == "__main__":
    main()
