"""A gateway of ipop, as far as handshakes and sealed datagrams go, written from the specifications alone:

- The Noise Protocol Framework, revision 34 (noiseprotocol.org): Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s
- the drawings in dataplane/src/datagram/mod.rs, dataplane/src/session/ and control/src/link/noise.rs

As a program it opens a session as initiator or responder, sends one frame again and again, and ends well once another
frame has arrived. It prints the cipher that was agreed on. As a module it is what hostile/peer.py is made of.
"""

import argparse
import base64
import hashlib
import hmac
import os
import socket
import struct
import sys
import time

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

VERSION, DATA, INITIATION, RESPONSE, DATA_ASIDE = 3, 1, 3, 4, 5
PAD, FRAME, CONTROL = 0, 1, 4
CONTROL_LANE = 255
INTRODUCTION = ">QQIBB2x64s"


def blake2s(data):
    return hashlib.blake2s(data).digest()


def public(private):
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def dh(private, their_public):
    return private.exchange(X25519PublicKey.from_public_bytes(their_public))


class Handshake:
    """SymmetricState and HandshakeState (sections 5.2 and 5.3), for this one pattern."""

    def __init__(self, network, responder_public):
        name = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
        # Longer than HASHLEN, so it is hashed.
        self.h = self.ck = blake2s(name)
        self.k, self.n = None, 0
        self.mix_hash(b"ipop " + bytes([VERSION]) + struct.pack(">I", network))
        self.mix_hash(responder_public)

    def hkdf(self, material, outputs):
        def mac(key, data):
            return hmac.new(key, data, hashlib.blake2s).digest()

        secret, made = mac(self.ck, material), [b""]
        for number in range(1, outputs + 1):
            made.append(mac(secret, made[-1] + bytes([number])))
        return made[1:]

    def mix_hash(self, data):
        self.h = blake2s(self.h + data)

    def mix_key(self, material):
        self.ck, self.k = self.hkdf(material, 2)
        self.n = 0

    def mix_key_and_hash(self, material):
        self.ck, extra, self.k = self.hkdf(material, 3)
        self.mix_hash(extra)
        self.n = 0

    def nonce(self):
        self.n += 1
        return bytes(4) + struct.pack("<Q", self.n - 1)

    def encrypt(self, plain):
        sealed = ChaCha20Poly1305(self.k).encrypt(self.nonce(), plain, self.h)
        self.mix_hash(sealed)
        return sealed

    def decrypt(self, sealed):
        plain = ChaCha20Poly1305(self.k).decrypt(self.nonce(), sealed, self.h)
        self.mix_hash(sealed)
        return plain

    def ephemeral(self, key):
        # With a preshared key "e" goes into the key as well (section 9.2).
        self.mix_hash(key)
        self.mix_key(key)

    def split(self):
        return self.hkdf(b"", 2)


def record(kind, body):
    return struct.pack(">BBH", kind, 0, len(body)) + body


class Peer:
    """One session with one gateway."""

    def __init__(self, options, endpoint=None):
        self.options = options
        with open(options.key, encoding="ascii") as file:
            self.private = X25519PrivateKey.from_private_bytes(base64.b64decode(file.read()))
        self.public = public(self.private)
        self.their_public = base64.b64decode(options.peer_key)
        self.psk = bytes(32)
        if options.preshared:
            with open(options.preshared, encoding="ascii") as file:
                self.psk = base64.b64decode(file.read())
        self.session = int.from_bytes(os.urandom(4), "big") | 1
        self.life = int.from_bytes(os.urandom(8), "big")
        self.abilities = 0 if options.without_aes else 1
        self.counters = {}
        self.cipher = None
        self.seen = set()
        self.socket = endpoint or self.open(5800)
        self.to = (options.address, 5800)

    def open(self, port):
        endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        endpoint.bind((self.options.listen, port))
        return endpoint

    def header(self, kind, session, lane, counter):
        first = VERSION << 28 | kind << 24 | self.options.network
        return struct.pack(">IIQ", first, session, lane << 56 | counter)

    def stamped(self, datagram):
        key = blake2s(b"ipop handshake stamp" + self.their_public)
        return datagram + hashlib.blake2s(datagram, key=key, digest_size=16).digest()

    def check_stamp(self, datagram):
        key = blake2s(b"ipop handshake stamp" + self.public)
        expected = hashlib.blake2s(datagram[:-16], key=key, digest_size=16).digest()
        assert hmac.compare_digest(expected, datagram[-16:]), "a handshake with a wrong stamp"
        return datagram[16:-16]

    def introduction(self):
        name = b"noise_peer"
        return struct.pack(INTRODUCTION, time.time_ns(), self.life, self.session, self.abilities, len(name), name)

    def use(self, introduction, sending, receiving):
        """The introduction of the other side says where to send to, and how."""
        assert len(introduction) == 88, "an introduction of another length"
        _, _, self.their_session, abilities, name_len, name = struct.unpack(INTRODUCTION, introduction)
        assert name[:name_len] == self.options.name.encode(), "another name"
        aes = abilities & self.abilities & 1
        self.cipher = "AES-256-GCM" if aes else "ChaCha20-Poly1305"
        aead = AESGCM if aes else ChaCha20Poly1305
        self.sending, self.receiving = aead(sending), aead(receiving)

    # -> e, es, s, ss ; <- e, ee, se, psk

    def initiate(self):
        state = Handshake(self.options.network, self.their_public)
        self.ephemeral = X25519PrivateKey.generate()
        e = public(self.ephemeral)
        state.ephemeral(e)
        state.mix_key(dh(self.ephemeral, self.their_public))
        s = state.encrypt(self.public)
        state.mix_key(dh(self.private, self.their_public))
        message = e + s + state.encrypt(self.introduction())
        self.pending = state
        datagram = self.stamped(self.header(INITIATION, 0, CONTROL_LANE, 0) + message)
        assert len(datagram) == 216
        self.socket.sendto(datagram, self.to)

    def finish(self, datagram):
        assert len(datagram) == 168
        message, state = self.check_stamp(datagram), self.pending
        state.ephemeral(message[:32])
        state.mix_key(dh(self.ephemeral, message[:32]))
        state.mix_key(dh(self.private, message[:32]))
        state.mix_key_and_hash(self.psk)
        introduction = state.decrypt(message[32:])
        sending, receiving = state.split()
        self.use(introduction, sending, receiving)

    def respond(self, datagram):
        assert len(datagram) == 216
        message = self.check_stamp(datagram)
        state = Handshake(self.options.network, self.public)
        theirs = message[:32]
        state.ephemeral(theirs)
        state.mix_key(dh(self.private, theirs))
        s = state.decrypt(message[32:80])
        assert s == self.their_public, "the handshake of another gateway"
        state.mix_key(dh(self.private, s))
        introduction = state.decrypt(message[80:])
        ephemeral = X25519PrivateKey.generate()
        e = public(ephemeral)
        state.ephemeral(e)
        state.mix_key(dh(ephemeral, theirs))
        state.mix_key(dh(ephemeral, s))
        state.mix_key_and_hash(self.psk)
        message = e + state.encrypt(self.introduction())
        receiving, sending = state.split()
        self.use(introduction, sending, receiving)
        header = self.header(RESPONSE, self.their_session, CONTROL_LANE, 0)
        self.socket.sendto(self.stamped(header + message), self.to)

    def seal(self, records, kind=DATA, lane=0):
        """Every lane has numbers of its own."""
        counter = self.counters.get(lane, 0)
        self.counters[lane] = counter + 1
        header = self.header(kind, self.their_session, lane, counter)
        return header + self.sending.encrypt(bytes(4) + header[8:], records, header)

    def send(self, kind, body):
        self.socket.sendto(self.seal(record(kind, body)), self.to)

    def records(self, datagram):
        header = datagram[:16]
        number = header[8:]
        try:
            records = self.receiving.decrypt(bytes(4) + number, datagram[16:], header)
        except InvalidTag:
            sys.exit("a datagram that is not authentic")
        assert number not in self.seen, "a number was used twice"
        self.seen.add(number)
        while records:
            kind, _, length = struct.unpack(">BBH", records[:4])
            yield kind, records[4 : 4 + length]
            records = records[4 + length :]

    def run(self):
        """True once the frame that is waited for has come."""
        wanted, frame = bytes.fromhex(self.options.expect), bytes.fromhex(self.options.send)
        end, next_send = time.monotonic() + 15, 0
        self.socket.settimeout(0.05)
        confirmed = False
        while time.monotonic() < end:
            if time.monotonic() >= next_send:
                if self.cipher and (confirmed or self.options.role == "initiator"):
                    self.send(FRAME, frame)
                    next_send = time.monotonic() + 0.2
                elif not self.cipher and self.options.role == "initiator":
                    self.initiate()
                    next_send = time.monotonic() + 1
            try:
                datagram, source = self.socket.recvfrom(65536)
            except TimeoutError:
                continue
            assert source == self.to, "from somewhere else"
            first, session = struct.unpack(">II", datagram[:8])
            assert first >> 28 == VERSION and first & 0xFFFFFF == self.options.network
            kind = first >> 24 & 0xF
            if kind == INITIATION and self.options.role == "responder" and not confirmed:
                self.respond(datagram)
                print(self.cipher, flush=True)
            elif kind == RESPONSE and session == self.session and not self.cipher:
                self.finish(datagram)
                print(self.cipher, flush=True)
            elif kind == DATA and session == self.session and self.cipher:
                # The initiator uses the session first.
                confirmed = True
                if any(kind == FRAME and body == wanted for kind, body in self.records(datagram)):
                    return True
        return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["initiator", "responder"])
    for name in ["key", "peer-key", "listen", "address", "send", "expect"]:
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--preshared")
    parser.add_argument("--without-aes", action="store_true", help="say that this processor has no instructions for it")
    parser.add_argument("--network", type=int, default=0)
    parser.add_argument("--name", default="gw-a", help="what the gateway calls itself")
    sys.exit(0 if Peer(parser.parse_args()).run() else "the frame did not come")


if __name__ == "__main__":
    main()
