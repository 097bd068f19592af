//! The handshake: what anybody can send to the port, and what a peer can say in it.

use std::sync::LazyLock;

use ipop_control::keys::{PrivateKey, PublicKey};
use ipop_control::link::noise::{Initiator, Introduction, Responder};
use ipop_dataplane::datagram::DatagramHeader;
use ipop_dataplane::session::{Cipher, Gate, Incoming, Outgoing};
use zerocopy::FromBytes;

use crate::Input;
use crate::datagram::NETWORK;

/// The key pairs of the two ends; they protect nothing.
pub static KEYS: LazyLock<[(PrivateKey, PublicKey); 2]> = LazyLock::new(|| {
    // 32 octets of 1, and of 2.
    ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="].map(|text| {
        let private = PrivateKey::read(text.as_bytes(), std::path::Path::new("key")).expect("a key");
        let public = private.public();
        (private, public)
    })
});

/// The message as it is, from a stranger; then a handshake in which the input says what the peers introduce themselves
/// with, and one octet of it is perhaps changed on the way.
pub fn handshake(data: &[u8]) -> bool {
    let [(a, a_public), (b, b_public)] = &*KEYS;
    let _ = Gate::of(b_public.as_bytes()).pass(data);
    let read = Responder::read(b, NETWORK, data).is_some();

    let mut input = Input(data);
    let [which, at, change] = input.array();
    let introduction =
        |octets: [u8; size_of::<Introduction>()]| Introduction::read_from_bytes(&octets).expect("any octets");
    let (from_a, from_b) = (introduction(input.array()), introduction(input.array()));
    let (mut initiator, mut first) = Initiator::begin(a, b_public, None, NETWORK, &from_a).expect("a message");
    if which & 1 != 0 && change != 0 {
        let at = usize::from(at) % first.len();
        first[at] ^= change;
        assert!(Responder::read(b, NETWORK, &first).is_none(), "octet {at} changed by {change}");
        return read;
    }
    let responder = Responder::read(b, NETWORK, &first).expect("a true message");
    assert_eq!((&responder.peer, responder.introduction), (a_public.as_bytes(), from_a));
    assert!(from_a.name().len() <= 64);
    let (mut second, at_b) = responder.answer(None, &from_b).expect("an answer");
    if which & 2 != 0 && change != 0 {
        let at = usize::from(at) % second.len();
        second[at] ^= change;
        assert!(initiator.finish(&second).is_none(), "octet {at} changed by {change}");
        second[at] ^= change;
    }
    let (heard, at_a) = initiator.finish(&second).expect("the true answer");
    assert_eq!(heard, from_b);

    // Both have chosen the same cipher, and hear each other.
    let ciphers: [Cipher; 2] = [from_a.cipher(&heard), from_b.cipher(&from_a)];
    assert_eq!(ciphers[0], ciphers[1]);
    let session = from_b.session.get();
    let outgoing = Outgoing::new(session, Some(at_a.sending(ciphers[0])), 1);
    let incoming = Incoming::new(session, Some(at_b.receiving(ciphers[1])));
    let mut datagram = outgoing.datagram(NETWORK, data).expect("counters are left");
    let (header, _) = DatagramHeader::parse(&datagram, NETWORK).expect("a header of ours");
    let (_, end) = incoming.open(&header, &mut datagram).expect("authentic");
    assert_eq!(datagram[16..end], *data);
    data.len() > 3
}
