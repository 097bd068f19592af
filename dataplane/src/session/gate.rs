//! The stamp of a handshake: shows that its sender knows who it is for.
//!
//! A handshake costs Diffie-Hellman operations. Its last 16 octets are a keyed hash of what is before them, with a key
//! made of the receiver's public key, so that a worker can drop what a scanner or a flood of garbage sends before it
//! costs anything else. Who knows the public key can stamp; rates bound those.

use blake2::digest::{FixedOutput, KeyInit, Mac, Update, consts::U16};
use blake2::{Blake2s256, Blake2sMac, Digest};

/// Octets of a stamp.
pub const STAMP_LEN: usize = 16;
/// Keeps the hash apart from other uses of the public key.
const LABEL: &[u8] = b"ipop handshake stamp";

/// Makes and checks the stamps of handshakes for one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    key: [u8; 32],
}

impl Gate {
    /// Of the receiver with this public key.
    pub fn of(public_key: &[u8; 32]) -> Gate {
        Gate { key: Blake2s256::new().chain_update(LABEL).chain_update(public_key).finalize().into() }
    }

    fn mac(&self, bytes: &[u8]) -> Blake2sMac<U16> {
        let mut mac = <Blake2sMac<U16> as KeyInit>::new(&self.key.into());
        Update::update(&mut mac, bytes);
        mac
    }

    /// Appends the stamp to a handshake datagram.
    pub fn stamp(&self, datagram: &mut Vec<u8>) {
        let stamp = self.mac(datagram).finalize_fixed();
        datagram.extend_from_slice(&stamp);
    }

    /// The datagram without its stamp, `None` if that is not of this receiver. Takes the same time for every wrong stamp.
    pub fn pass<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        let (bytes, stamp) = datagram.split_last_chunk::<STAMP_LEN>()?;
        self.mac(bytes).verify_slice(stamp).ok().map(|()| bytes)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_receivers_own_stamp_passes() {
        let (ours, other) = (Gate::of(&[1; 32]), Gate::of(&[2; 32]));
        let mut datagram = b"a handshake".to_vec();
        ours.stamp(&mut datagram);
        assert_eq!(ours.pass(&datagram), Some(&b"a handshake"[..]));
        assert_eq!(other.pass(&datagram), None);
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 0x40;
            assert_eq!(ours.pass(&changed), None, "{at}");
        }
        assert_eq!(ours.pass(&datagram[..10]), None);
    }
}
