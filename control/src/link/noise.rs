//! The two messages that agree on the keys of a session: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (noiseprotocol.org, revision 34).
//!
//! The first message has the initiator's public key, encrypted for the responder, whose public key it must know; both
//! have an [`Introduction`] as payload. A preshared key goes into the second message; peers without one use zeros, which
//! is what Noise makes of IK. The prologue binds the version of the datagram format and the network.
//!
//! ```text
//!   initiation: datagram header (16) | e (32) | s (32 + 16) | introduction (88 + 16) | stamp (16)     216 octets
//!   response:   datagram header (16) | e (32) | introduction (88 + 16)               | stamp (16)     168 octets
//! ```

use ipop_dataplane::datagram::VERSION;
use ipop_dataplane::session::{Cipher, KEY_LEN, Key};
use snow::{Builder, HandshakeState};
use zerocopy::byteorder::network_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, Zeroizing};

use super::printable;
use crate::keys::{PresharedKey, PrivateKey, PublicKey};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// Where the preshared key goes into the pattern.
const PSK_PLACE: usize = 2;
const NO_PSK: [u8; KEY_LEN] = [0; KEY_LEN];
/// Octets of a name on the wire; always so many, so that its length does not show.
pub const NAME_LEN: usize = 64;
/// Room for either message.
const ROOM: usize = 256;

/// What the two say of themselves, encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Introduction {
    /// Nanoseconds since 1970, and higher than in every handshake before.
    pub timestamp: U64,
    /// A random number, new at every start of the gateway.
    pub life: U64,
    /// The session index that the sender wants to be sent to.
    pub session: U32,
    /// 1: has instructions for AES.
    abilities: u8,
    name_len: u8,
    reserved: [u8; 2],
    name: [u8; NAME_LEN],
}

const ABILITY_AES: u8 = 1;

impl Introduction {
    /// Of this processor and a gateway called `name`, which is cut to 64 octets.
    pub fn new(timestamp: u64, life: u64, session: u32, name: &str) -> Introduction {
        let len = (0..=name.len().min(NAME_LEN)).rev().find(|len| name.is_char_boundary(*len)).unwrap_or(0);
        let mut octets = [0; NAME_LEN];
        octets[..len].copy_from_slice(&name.as_bytes()[..len]);
        Introduction {
            timestamp: U64::new(timestamp),
            life: U64::new(life),
            session: U32::new(session),
            abilities: if Cipher::aes_is_fast() { ABILITY_AES } else { 0 },
            name_len: len as u8,
            reserved: [0; 2],
            name: octets,
        }
    }

    /// The sender's name, without control characters; empty if it is no text.
    pub fn name(&self) -> String {
        let octets = self.name.get(..usize::from(self.name_len)).unwrap_or_default();
        printable(std::str::from_utf8(octets).unwrap_or_default())
    }

    /// What both processors are good at.
    pub fn cipher(&self, other: &Introduction) -> Cipher {
        if self.abilities & other.abilities & ABILITY_AES != 0 { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 }
    }

    fn read(bytes: &[u8]) -> Option<Introduction> {
        Introduction::read_from_prefix(bytes).ok().map(|(introduction, _)| introduction)
    }
}

/// The keys of a session, wiped when dropped. In boxes, since what is moved leaves a copy behind.
pub struct Keys {
    send: Box<Zeroizing<[u8; KEY_LEN]>>,
    receive: Box<Zeroizing<[u8; KEY_LEN]>>,
}

impl Keys {
    fn of(state: &mut HandshakeState, initiator: bool) -> Keys {
        let (mut first, mut second) = state.dangerously_get_raw_split();
        let [from_initiator, from_responder] = [&mut first, &mut second].map(|key| {
            let mut boxed = Box::new(Zeroizing::new([0; KEY_LEN]));
            boxed.copy_from_slice(key);
            key.zeroize();
            boxed
        });
        if initiator {
            Keys { send: from_initiator, receive: from_responder }
        } else {
            Keys { send: from_responder, receive: from_initiator }
        }
    }

    /// For the way out.
    pub fn sending(&self, cipher: Cipher) -> Key {
        Key::new(cipher, &self.send)
    }

    /// For the way in.
    pub fn receiving(&self, cipher: Cipher) -> Key {
        Key::new(cipher, &self.receive)
    }
}

fn prologue(network: u32) -> Vec<u8> {
    [b"ipop ".as_slice(), &[VERSION], &network.to_be_bytes()].concat()
}

fn psk(key: Option<&PresharedKey>) -> &[u8; KEY_LEN] {
    key.map_or(&NO_PSK, PresharedKey::as_bytes)
}

/// A handshake that was begun here.
pub struct Initiator(HandshakeState);

impl Initiator {
    /// The first message, without header and stamp.
    pub fn begin(
        own: &PrivateKey,
        peer: &PublicKey,
        preshared: Option<&PresharedKey>,
        network: u32,
        introduction: &Introduction,
    ) -> Result<(Initiator, Vec<u8>), snow::Error> {
        let mut state = Builder::new(PATTERN.parse()?)
            .prologue(&prologue(network))?
            .local_private_key(own.as_bytes())?
            .remote_public_key(peer.as_bytes())?
            .psk(PSK_PLACE as u8, psk(preshared))?
            .build_initiator()?;
        let message = write(&mut state, introduction)?;
        Ok((Initiator(state), message))
    }

    /// Reads the answer; `None` if it is none, and then another may still come.
    pub fn finish(&mut self, message: &[u8]) -> Option<(Introduction, Keys)> {
        let introduction = read(&mut self.0, message)?;
        Some((introduction, Keys::of(&mut self.0, true)))
    }
}

/// A handshake that a peer has begun.
pub struct Responder {
    state: HandshakeState,
    /// Who has begun it.
    pub peer: [u8; KEY_LEN],
    /// What it says of itself.
    pub introduction: Introduction,
}

impl Responder {
    /// Reads a first message; `None` if it is none for us.
    pub fn read(own: &PrivateKey, network: u32, message: &[u8]) -> Option<Responder> {
        let mut state = Builder::new(PATTERN.parse().ok()?)
            .prologue(&prologue(network))
            .ok()?
            .local_private_key(own.as_bytes())
            .ok()?
            .psk(PSK_PLACE as u8, &NO_PSK)
            .ok()?
            .build_responder()
            .ok()?;
        let introduction = read(&mut state, message)?;
        let peer = state.get_remote_static()?.try_into().ok()?;
        Some(Responder { state, peer, introduction })
    }

    /// The second message, without header and stamp, and the keys.
    pub fn answer(
        mut self,
        preshared: Option<&PresharedKey>,
        introduction: &Introduction,
    ) -> Result<(Vec<u8>, Keys), snow::Error> {
        self.state.set_psk(PSK_PLACE, psk(preshared))?;
        let message = write(&mut self.state, introduction)?;
        Ok((message, Keys::of(&mut self.state, false)))
    }
}

fn write(state: &mut HandshakeState, introduction: &Introduction) -> Result<Vec<u8>, snow::Error> {
    let mut message = vec![0; ROOM];
    let len = state.write_message(introduction.as_bytes(), &mut message)?;
    message.truncate(len);
    Ok(message)
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Option<Introduction> {
    // A longer message would not fit; snow wants room for the payload before it is authenticated.
    let mut payload = [0; ROOM];
    let len = (message.len() <= ROOM).then(|| state.read_message(message, &mut payload).ok())??;
    Introduction::read(&payload[..len])
}

#[cfg(test)]
mod tests {
    use ipop_dataplane::datagram::{CONTROL_LANE, DatagramHeader, INITIATION, RESPONSE};
    use ipop_dataplane::session::Gate;

    use super::*;

    fn keys() -> (PrivateKey, PublicKey) {
        let key = PrivateKey::generate().unwrap();
        let public = key.public();
        (key, public)
    }

    fn introduction(session: u32) -> Introduction {
        Introduction::new(7, 8, session, "gw-a")
    }

    /// The test vector of the handshake, checked with another implementation; SECURITY.md has it too. Any change of it is
    /// a new version. Private keys of 32 octets of 1 and 2, ephemeral ones of 3 and 4, a preshared key of 5.
    #[test]
    fn vector() {
        let [a, b, e_a, e_b, secret] = [1, 2, 3, 4, 5].map(|octet| [octet; KEY_LEN]);
        let prologue = prologue(0xabcd);
        let builder = |own, ephemeral| {
            let builder = Builder::new(PATTERN.parse().unwrap()).prologue(&prologue).unwrap();
            let builder = builder.local_private_key(own).unwrap().psk(PSK_PLACE as u8, &secret).unwrap();
            builder.fixed_ephemeral_key_for_testing_only(ephemeral)
        };
        let public_key = |text: [u8; KEY_LEN]| {
            let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
            PrivateKey::read(text.as_bytes(), std::path::Path::new("key")).unwrap().public()
        };
        let [a_public, b_public] = [a, b].map(public_key);
        let introduction = |timestamp, life, session, name| Introduction {
            abilities: ABILITY_AES,
            ..Introduction::new(timestamp, life, session, name)
        };
        let datagram = |kind, session, message: &[u8], receiver: &PublicKey| {
            let header = DatagramHeader::new(kind, 0xabcd, session, CONTROL_LANE, 0);
            let mut datagram = [header.as_bytes(), message].concat();
            Gate::of(receiver.as_bytes()).stamp(&mut datagram);
            hex(&datagram)
        };

        let initiator = builder(&a, &e_a).remote_public_key(b_public.as_bytes()).unwrap();
        let mut initiator = initiator.build_initiator().unwrap();
        let mut responder = builder(&b, &e_b).build_responder().unwrap();
        let first = write(&mut initiator, &introduction(7, 8, 0x0001_0000, "gw-a")).unwrap();
        assert_eq!(read(&mut responder, &first).unwrap().name(), "gw-a");
        let second = write(&mut responder, &introduction(9, 10, 0x0002_0000, "gw-b")).unwrap();
        assert_eq!(read(&mut initiator, &second).unwrap().name(), "gw-b");
        let keys = Keys::of(&mut initiator, true);

        let initiation = [
            "3300abcd00000000ff000000000000005dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22",
            "0a26599fb2188bb723276fc173af67616c817fc32fd04d686d87ec152fac10ee3914c93f6da370710e2c3845a8efaaad",
            "57fb46b3ccc89aeebd273ed6a23e4be5ed2984fb352456ecb81a0d1d12ad118e11c526e295485ac565ca37949d439883",
            "605e6efe91a2e2797b7aa045a631f913da6257381f9f5dfe00229fa2c53d75059eca94fa43debd7a6aafbaf79ded01e5",
            "86348e2846ae14c2c72df191a113646a0ef5e1409278b58d",
        ];
        assert_eq!(datagram(INITIATION, 0, &first, &b_public), initiation.concat());
        let response = [
            "3400abcd00010000ff00000000000000ac01b2209e86354fb853237b5de0f4fab13c7fcbf433a61c019369617fecf10b",
            "06b9a61f210206daacd1a3220639873ec61650069971a0bbdc50c5fc44bcadacf3dfe6fe81dd1a364b20100dbf953d07",
            "6dc343e36239f38e604d4564dcb623b3a2941b1c83c12cffb4bcf37cb9010ce26e04aa90f651e2818b7fe57c62f41aca",
            "3232254e28b8c9570ba73a90a6af61d2bfbac54f3e0f8635",
        ];
        assert_eq!(datagram(RESPONSE, 0x0001_0000, &second, &a_public), response.concat());
        assert_eq!(hex(&**keys.send), "a18cc809fd05b6b5f99644cf506f89dce368c2f54a9dbeb9a384f36c274317ef");
        assert_eq!(hex(&**keys.receive), "b1aa1b797d3a45da97552b8084ade493aa767f15af95854bc86557f6dacd851d");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn both_ends_have_the_same_keys() {
        let ((a, a_public), (b, b_public)) = (keys(), keys());
        let secret = PresharedKey::generate().unwrap();
        for preshared in [None, Some(&secret)] {
            let (mut initiator, first) = Initiator::begin(&a, &b_public, preshared, 3, &introduction(1)).unwrap();
            assert_eq!(first.len(), 216 - 32);
            let responder = Responder::read(&b, 3, &first).unwrap();
            assert_eq!((&responder.peer, responder.introduction), (a_public.as_bytes(), introduction(1)));
            let (second, at_b) = responder.answer(preshared, &introduction(2)).unwrap();
            assert_eq!(second.len(), 168 - 32);
            // A forged answer does not spoil the true one.
            for at in [0, 40, second.len() - 1] {
                let mut forged = second.clone();
                forged[at] ^= 1;
                assert!(initiator.finish(&forged).is_none());
            }
            let (introduced, at_a) = initiator.finish(&second).unwrap();
            assert_eq!((introduced.session.get(), introduced.name().as_str()), (2, "gw-a"));
            assert_eq!((&at_a.send, &at_a.receive), (&at_b.receive, &at_b.send));
            assert_ne!(at_a.send, at_a.receive);
        }
    }

    #[test]
    fn nobody_else_gets_through() {
        let ((a, _), (b, b_public), (other, _)) = (keys(), keys(), keys());
        let (_, first) = Initiator::begin(&a, &b_public, None, 3, &introduction(1)).unwrap();
        assert!(Responder::read(&other, 3, &first).is_none(), "another receiver");
        assert!(Responder::read(&b, 4, &first).is_none(), "another network");
        for at in 0..first.len() {
            let mut changed = first.clone();
            changed[at] ^= 0x10;
            assert!(Responder::read(&b, 3, &changed).is_none(), "octet {at}");
            assert!(Responder::read(&b, 3, &first[..at]).is_none(), "cut at {at}");
        }
        assert!(Responder::read(&b, 3, &[0; 300]).is_none());
    }

    #[test]
    fn preshared_keys_must_agree() {
        let ((a, _), (b, b_public)) = (keys(), keys());
        let secrets = [(); 2].map(|()| PresharedKey::generate().unwrap());
        let (mut initiator, first) = Initiator::begin(&a, &b_public, Some(&secrets[0]), 3, &introduction(1)).unwrap();
        let responder = Responder::read(&b, 3, &first).unwrap();
        let (second, _) = responder.answer(Some(&secrets[1]), &introduction(2)).unwrap();
        assert!(initiator.finish(&second).is_none());
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(Introduction::new(0, 0, 0, &"ä".repeat(40)).name(), "ä".repeat(32));
        assert_eq!(Introduction::new(0, 0, 0, &format!("x{}", "ä".repeat(40))).name().len(), 63);
        let mut broken = introduction(1);
        broken.name_len = 200;
        assert_eq!(broken.name(), "");
        (broken.name_len, broken.name[0]) = (1, 0xff);
        assert_eq!(broken.name(), "");
    }

    #[test]
    fn a_name_is_one_line() {
        let name = Introduction::new(0, 0, 0, "gw\nERROR \u{1b}[31m\r\u{85}\0\u{7f}ä").name();
        assert_eq!(name, "gw?ERROR ?[31m????ä");
    }

    #[test]
    fn aes_only_if_both_have_it() {
        let (mut with, mut without) = (introduction(1), introduction(2));
        (with.abilities, without.abilities) = (0xff, 0xfe);
        assert_eq!(with.cipher(&with), Cipher::Aes256Gcm);
        assert_eq!(with.cipher(&without), Cipher::ChaCha20Poly1305);
        assert_eq!(without.cipher(&with), Cipher::ChaCha20Poly1305);
    }
}
