//! The two directions of a session with a peer: what leaves is numbered and sealed, what comes is opened and taken once.
//!
//! A sealed datagram is the header ([`DatagramHeader`]), which is authenticated, the records, encrypted, and a tag of 16
//! octets. The nonce is four zero octets and the last eight of the header, lane and counter: a lane belongs to one thread,
//! and its counter lies in the session, beside the key; so no key ever meets a nonce twice. Without a key, where the
//! config says `"sec": false`, the records follow in clear text and there is no tag.
//!
//! The control thread makes sessions (`ipop-control`, `link`) and shares them with the workers through the table of peers.
//! A session ends when its last reference goes: AWS-LC wipes the keys as it frees them.

mod gate;
mod replay;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use crossbeam::utils::CachePadded;
use zerocopy::IntoBytes;

pub use gate::{Gate, STAMP_LEN};
pub use replay::{Freshness, MAX_COUNTER, REPLAY_WINDOW, ReplayWindow};

use crate::datagram::{CONTROL_LANE, DATA, DATAGRAM_HEADER_LEN, DatagramHeader, MAX_WORKERS};
use crate::ending::Ending;

/// Octets that sealing adds to a datagram.
pub const TAG_LEN: usize = 16;
/// Octets of a key.
pub const KEY_LEN: usize = 32;
/// Counters that are kept free at the end, more than one frame can need.
const RESERVE: u64 = 1 << 16;

/// How datagrams are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// Where both processors have instructions for it.
    Aes256Gcm,
    /// Elsewhere.
    ChaCha20Poly1305,
}

impl Cipher {
    /// True if this processor has instructions for AES-GCM.
    pub fn aes_is_fast() -> bool {
        #[cfg(target_arch = "x86_64")]
        return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        return false;
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}

/// A key for one direction.
pub struct Key(LessSafeKey);

impl Key {
    /// A key for this cipher. The caller wipes `bytes`.
    pub fn new(cipher: Cipher, bytes: &[u8; KEY_LEN]) -> Key {
        let algorithm = match cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        // The length is that of both algorithms, and nothing else is refused.
        Key(LessSafeKey::new(UnboundKey::new(algorithm, bytes).expect("the length is right")))
    }

    fn nonce(header: &[u8; DATAGRAM_HEADER_LEN]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&header[8..]);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals a datagram whose last octets are room for the tag. One that cannot be sealed is wiped and cannot be opened.
    fn seal(&self, datagram: &mut [u8]) {
        let Some((header, body)) = datagram.split_first_chunk_mut::<DATAGRAM_HEADER_LEN>() else { return };
        let Some((body, tag)) = body.split_last_chunk_mut::<TAG_LEN>() else { return };
        match self.0.seal_in_place_separate_tag(Key::nonce(header), Aad::from(&*header), body) {
            Ok(sealed) => tag.copy_from_slice(sealed.as_ref()),
            Err(_) => body.fill(0),
        }
    }

    /// Opens a datagram in place; false if it is not authentic.
    fn open(&self, datagram: &mut [u8]) -> bool {
        let Some((header, body)) = datagram.split_first_chunk_mut::<DATAGRAM_HEADER_LEN>() else { return false };
        self.0.open_in_place(Key::nonce(header), Aad::from(&*header), body).is_ok()
    }
}

/// The way out.
pub struct Outgoing {
    /// The index that the peer has chosen to be sent to.
    session: u32,
    key: Option<Key>,
    /// The next counter of each lane; the control thread's is the last. Each has one writer.
    counters: Box<[CachePadded<AtomicU64>]>,
}

impl Outgoing {
    /// For `workers` workers and the control thread. Without a key nothing is sealed.
    pub fn new(session: u32, key: Option<Key>, workers: usize) -> Outgoing {
        Outgoing { session, key, counters: (0..=workers).map(|_| CachePadded::default()).collect() }
    }

    /// The index that the peer has chosen.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// True if datagrams are sealed.
    pub fn is_sealed(&self) -> bool {
        self.key.is_some()
    }

    /// Octets to leave free at the end of each datagram.
    pub fn tag_len(&self) -> usize {
        if self.key.is_some() { TAG_LEN } else { 0 }
    }

    fn counter(&self, lane: u8) -> Option<&AtomicU64> {
        let last = self.counters.len() - 1;
        self.counters.get(if lane == CONTROL_LANE { last } else { usize::from(lane) }).map(|counter| &**counter)
    }

    /// False once a lane has no numbers left; there will be other keys long before.
    pub fn has_counters(&self, lane: u8) -> bool {
        self.counter(lane).is_some_and(|counter| counter.load(Relaxed) < MAX_COUNTER - RESERVE)
    }

    /// The header of the next datagram of a lane, [`DATA`] or [`DATA_ASIDE`](crate::datagram::DATA_ASIDE), by the one thread
    /// that the lane belongs to. Ask [`Self::has_counters`] before.
    pub fn next_header(&self, kind: u8, network: u32, lane: u8) -> DatagramHeader {
        let number = self.counter(lane).map_or(MAX_COUNTER, |counter| {
            let number = counter.load(Relaxed);
            counter.store(number + 1, Relaxed);
            number
        });
        DatagramHeader::new(kind, network, self.session, lane, number)
    }

    /// Datagrams so far.
    pub fn used(&self) -> u64 {
        self.counters.iter().map(|counter| counter.load(Relaxed)).sum()
    }

    /// Seals a datagram, if there is a key: header, records, and [`Self::tag_len`] octets of room.
    pub fn seal(&self, datagram: &mut [u8]) {
        if let Some(key) = &self.key {
            key.seal(datagram);
        }
    }

    /// A whole datagram with these records, by the control thread.
    pub fn datagram(&self, network: u32, records: &[u8]) -> Option<Vec<u8>> {
        if !self.has_counters(CONTROL_LANE) {
            return None;
        }
        let header = self.next_header(DATA, network, CONTROL_LANE);
        let mut datagram = [header.as_bytes(), records, &[0; TAG_LEN][..self.tag_len()]].concat();
        self.seal(&mut datagram);
        Some(datagram)
    }
}

/// The way in.
pub struct Incoming {
    /// The index that we have chosen.
    session: u32,
    key: Option<Key>,
    /// One for each lane that a gateway can have, the control thread's first: its number is the last, and one more than that
    /// is 0. Made when an authentic datagram of the lane has come: most gateways have few.
    windows: Box<[OnceLock<ReplayWindow>]>,
    used: AtomicBool,
}

impl Incoming {
    /// Without a key datagrams come in clear text.
    pub fn new(session: u32, key: Option<Key>) -> Incoming {
        let windows = (0..=MAX_WORKERS).map(|_| OnceLock::new()).collect();
        Incoming { session, key, windows, used: AtomicBool::new(false) }
    }

    /// The index that we have chosen.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// True if datagrams are sealed, so that one that is opened is from the peer wherever it came from.
    pub fn is_sealed(&self) -> bool {
        self.key.is_some()
    }

    /// Opens a datagram in place; `header` is its own. Says how new it is, and where its records end.
    pub fn open(&self, header: &DatagramHeader, datagram: &mut [u8]) -> Result<(Freshness, usize), Ending> {
        let lane = self.windows.get(usize::from(header.lane().wrapping_add(1))).ok_or(Ending::LaneUnknown)?;
        // A replay costs no cryptography.
        if lane.get().is_some_and(|window| !window.may_accept(header.counter())) {
            return Err(Ending::Replayed);
        }
        let len = datagram.len();
        let end = match &self.key {
            Some(key) if !key.open(datagram) => return Err(Ending::NotAuthentic),
            Some(_) => len - TAG_LEN,
            None => len,
        };
        match lane.get_or_init(ReplayWindow::default).accept(header.counter()) {
            Freshness::Stale => Err(Ending::Replayed),
            freshness => Ok((freshness, end)),
        }
    }

    /// True until [`Self::set_used`]: nobody has told yet that the peer uses the session.
    pub fn is_unused(&self) -> bool {
        !self.used.load(Relaxed)
    }

    /// The control thread knows, or will soon, that the peer uses the session.
    pub fn set_used(&self) {
        self.used.store(true, Relaxed);
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to session {:#x}", self.session)
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {:#x}", self.session)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn ends(cipher: Cipher) -> (Outgoing, Incoming) {
        let key = || Some(Key::new(cipher, &[7; KEY_LEN]));
        (Outgoing::new(9, key(), 2), Incoming::new(9, key()))
    }

    fn open(incoming: &Incoming, datagram: &mut [u8]) -> Result<(Freshness, usize), Ending> {
        let (header, _) = DatagramHeader::parse(datagram, 3)?;
        incoming.open(&header, datagram)
    }

    /// The test vectors of sealed datagrams, checked with another implementation; SECURITY.md has them too. Any change
    /// of them is a new version.
    #[test]
    fn vectors() {
        let sealed = |cipher| {
            let key: [u8; KEY_LEN] = std::array::from_fn(|i| i as u8);
            let header = DatagramHeader::new(DATA, 0xabcd, 0x0102_0304, 2, 5);
            let mut datagram = [header.as_bytes(), b"records", &[0; TAG_LEN]].concat();
            Key::new(cipher, &key).seal(&mut datagram);
            datagram.iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        let header = "3100abcd010203040200000000000005";
        let aes = sealed(Cipher::Aes256Gcm);
        assert_eq!(aes, format!("{header}2d838fe3712301444d46c722962b82569d2b16074450b2"));
        let chacha = sealed(Cipher::ChaCha20Poly1305);
        assert_eq!(chacha, format!("{header}c1fc64319051671b183257c024c9a31981523514ababf7"));
    }

    #[test]
    fn what_is_sealed_is_opened_once() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let (outgoing, incoming) = ends(cipher);
            for number in 0..100 {
                let mut datagram = outgoing.datagram(3, b"some records").unwrap();
                assert!(!datagram.windows(4).any(|w| w == b"some"));
                let again = datagram.clone();
                let (freshness, end) = open(&incoming, &mut datagram).unwrap();
                assert_eq!((freshness, &datagram[DATAGRAM_HEADER_LEN..end]), (Freshness::Newest, &b"some records"[..]));
                assert_eq!(open(&incoming, &mut again.clone()), Err(Ending::Replayed));
                assert_eq!(outgoing.used(), number + 1);
            }
            assert!(incoming.is_unused());
            incoming.set_used();
            assert!(!incoming.is_unused());
        }
    }

    #[test]
    fn no_bit_can_be_changed_and_no_octet_cut() {
        let (outgoing, incoming) = ends(Cipher::Aes256Gcm);
        let datagram = outgoing.datagram(3, b"some records").unwrap();
        for bit in 0..datagram.len() * 8 {
            let mut changed = datagram.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok((header, _)) = DatagramHeader::parse(&changed, 3) else { continue };
            let result = incoming.open(&header, &mut changed);
            assert!(
                matches!(result, Err(Ending::NotAuthentic | Ending::Replayed | Ending::LaneUnknown)),
                "bit {bit}: {result:?}"
            );
        }
        for len in DATAGRAM_HEADER_LEN..datagram.len() {
            assert_eq!(open(&incoming, &mut datagram[..len].to_vec()), Err(Ending::NotAuthentic), "{len}");
        }
        assert!(open(&incoming, &mut datagram.clone()).is_ok());
    }

    #[test]
    fn lanes_have_counters_of_their_own() {
        let (outgoing, _) = ends(Cipher::Aes256Gcm);
        let next = |lane| {
            let header = outgoing.next_header(DATA, 3, lane);
            (header.lane(), header.counter())
        };
        assert_eq!([next(0), next(1), next(0), next(CONTROL_LANE)], [(0, 0), (1, 0), (0, 1), (CONTROL_LANE, 0)]);
        assert!(outgoing.has_counters(1) && !outgoing.has_counters(3));
        outgoing.counters[0].store(MAX_COUNTER - RESERVE, Relaxed);
        assert!(!outgoing.has_counters(0));
    }

    #[test]
    fn only_lanes_that_a_gateway_can_have_are_heard() {
        let incoming = Incoming::new(9, None);
        let heard = (0..=u8::MAX).filter(|lane| {
            let mut datagram = DatagramHeader::new(DATA, 3, 9, *lane, 0).as_bytes().to_vec();
            let result = open(&incoming, &mut datagram);
            assert!(result.is_ok() || result == Err(Ending::LaneUnknown), "{result:?}");
            result.is_ok()
        });
        assert_eq!(heard.collect::<Vec<_>>(), (0..MAX_WORKERS as u8).chain([CONTROL_LANE]).collect::<Vec<_>>());
    }

    #[test]
    fn clear_text_has_no_tag() {
        let (outgoing, incoming) = (Outgoing::new(9, None, 1), Incoming::new(9, None));
        let mut datagram = outgoing.datagram(3, b"records").unwrap();
        assert_eq!(&datagram[DATAGRAM_HEADER_LEN..], b"records");
        assert_eq!(open(&incoming, &mut datagram), Ok((Freshness::Newest, datagram.len())));
    }
}
