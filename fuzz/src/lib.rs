//! What strangers, peers and guests can send, and what must hold of it, whatever it is.
//!
//! Each target is a plain function that takes octets, panics if a property does not hold, and says whether the input got
//! past the first refusals, so that a corpus that a change of format has made worthless is noticed. `fuzz_targets/` hands
//! them to libFuzzer; `tests/corpora.rs` replays what is committed under `corpus/` and `regressions/`.

pub mod claims;
pub mod datagram;
pub mod handshake;
pub mod link;
pub mod segment;
pub mod text;
pub mod wire;

/// The segmentation that the property tests use as their oracle.
#[path = "../../dataplane/tests/reference/mod.rs"]
mod reference;

/// What guests hand over, for seeds.
pub mod guests {
    pub use crate::reference::Guest;
    pub use crate::reference::udp::{Datagram, Oddity, Sum};
}

/// A target: its name, which is that of its folders, and its function.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: &[Target] = &[
    ("datagram", datagram::datagram),
    ("fragment", datagram::fragment),
    ("slices", segment::slices),
    ("cut", segment::cut),
    ("merge", segment::merge),
    ("frame", wire::frame),
    ("claims", claims::claims),
    ("rpc", text::rpc),
    ("hello", text::hello),
    ("config", text::config),
    ("admin", text::admin),
    ("key", text::key),
    ("handshake", handshake::handshake),
    ("link", link::link),
];

/// Reads parameters off the front of an input; an input that is too short has zeros there.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut octets = [0; N];
        let taken = self.take(N);
        octets[..taken.len()].copy_from_slice(taken);
        octets
    }

    fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.array())
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }
}
