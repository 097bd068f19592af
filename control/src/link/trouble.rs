//! Why a link is down, as far as this side can see.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// What keeps a link down. Nothing of it is proved: much of what is seen of a peer that is down is not authentic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing has come from it since the start.
    Unheard,
    /// It was up, and nothing comes any more.
    Silent,
    /// It said goodbye.
    Goodbye,
    /// It has not agreed to new keys for too long.
    NoNewKeys,
    /// Its handshakes arrive, and what is answered does not get it any further.
    Incomplete,
    /// Nobody listens at its address.
    Refused,
    /// The kernel refuses to send there, for this reason.
    Unreachable(String),
    /// It speaks this version of the datagram format.
    Version(u8),
    /// It is in this network.
    Network(u32),
    /// One side encrypts and the other does not.
    Sec,
    /// What it sends was made for another key than this gateway's.
    MadeForAnother,
    /// Its own key, this one, is no peer's.
    UnknownKey(String),
    /// The preshared keys differ.
    PresharedKey,
    /// Its handshakes are older than the last one from its key, by so much.
    Clock(Duration),
    /// It keeps to another gateway, which has this gateway's key.
    OwnKeyTwice(SocketAddr),
    /// The way to it leads through the overlay: so.
    Loop(String),
}

impl Trouble {
    /// For programs.
    pub fn name(&self) -> &'static str {
        match self {
            Trouble::Unheard => "unheard",
            Trouble::Silent => "silent",
            Trouble::Goodbye => "goodbye",
            Trouble::NoNewKeys => "no_new_keys",
            Trouble::Incomplete => "incomplete",
            Trouble::Refused => "refused",
            Trouble::Unreachable(_) => "unreachable",
            Trouble::Version(_) => "version",
            Trouble::Network(_) => "network",
            Trouble::Sec => "sec",
            Trouble::MadeForAnother => "made_for_another_key",
            Trouble::UnknownKey(_) => "unknown_key",
            Trouble::PresharedKey => "preshared_key",
            Trouble::Clock(_) => "clock",
            Trouble::OwnKeyTwice(_) => "own_key_twice",
            Trouble::Loop(_) => "loop",
        }
    }

    /// How much it tells: what only says that nothing comes is not put in the place of what says why.
    fn rank(&self) -> u8 {
        match self {
            Trouble::Unheard | Trouble::Silent | Trouble::Goodbye | Trouble::NoNewKeys => 0,
            Trouble::Refused | Trouble::Incomplete => 1,
            Trouble::Unreachable(_) => 2,
            // Whoever is heard can be reached, so these are newer.
            Trouble::Version(_) | Trouble::Network(_) | Trouble::Sec | Trouble::MadeForAnother => 2,
            Trouble::Clock(_) => 3,
            Trouble::UnknownKey(_) | Trouble::PresharedKey => 4,
            Trouble::OwnKeyTwice(_) => 5,
            Trouble::Loop(_) => 6,
        }
    }

    /// True if it may well be that the peer does not run.
    pub(super) fn is_absence(&self) -> bool {
        self.rank() == 0 || *self == Trouble::Refused
    }

    /// For how long it is believed, unless it is seen again: both sides try again every second.
    fn life_ms(&self) -> u64 {
        match self {
            // Asked for rarely, and told once.
            Trouble::Refused | Trouble::OwnKeyTwice(_) => 600_000,
            // As long as nothing is sent.
            Trouble::Loop(_) => u64::MAX,
            _ => 15_000,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unheard => f.write_str(
                "nothing has come from it yet; does the gateway run there, with this one among its peers, and does UDP pass \
                 both ways?",
            ),
            Trouble::Silent => f.write_str("it is silent"),
            Trouble::Goodbye => f.write_str("it said goodbye"),
            Trouble::NoNewKeys => f.write_str("it agrees to no new keys"),
            Trouble::Incomplete => f.write_str(
                "its handshakes arrive, but do not lead to a session: either what this gateway sends does not reach it, or it \
                 has another \"preshared_key_file\"",
            ),
            Trouble::Refused => f.write_str("nobody listens at its address (ICMP port unreachable)"),
            Trouble::Unreachable(error) => write!(f, "it cannot be sent to: {error}"),
            Trouble::Version(version) => {
                write!(f, "it speaks version {version} of the protocol, and this gateway {}", crate::link::VERSION)
            }
            Trouble::Network(network) => {
                write!(f, "it is in network {network}: \"network\" must be the same on both gateways")
            }
            Trouble::Sec => f.write_str("one side encrypts and the other does not: \"sec\" must be the same on both gateways"),
            Trouble::MadeForAnother => f.write_str(
                "its handshakes were made for another key than this gateway's: its config has another \"public_key\" for \
                 this one",
            ),
            Trouble::UnknownKey(key) => write!(f, "it has a key that is no peer's in the config: {key}"),
            Trouble::PresharedKey => f.write_str(
                "it has another secret: \"preshared_key_file\" must be the same on both gateways, or on neither (unless \
                 somebody forges answers)",
            ),
            Trouble::Clock(by) => write!(
                f,
                "its handshakes are older than what it sent before, by {} s: its clock has gone back, or somebody repeats old \
                 ones",
                by.as_secs()
            ),
            Trouble::Loop(how) => {
                write!(f, "nothing is sent to it, because its datagrams would go round through the overlay: {how}")
            }
            Trouble::OwnKeyTwice(other) => write!(
                f,
                "it keeps to another gateway, at {other}, which has this gateway's key: every gateway needs a key of its own \
                 (`ipop keygen`)"
            ),
        }
    }
}

/// What is known of it at the moment.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// That nothing comes.
    silence: Option<Trouble>,
    /// What says why, and when it was seen.
    reason: Option<(Trouble, u64)>,
    /// What the log has told last.
    told: Option<&'static str>,
}

impl Troubles {
    /// The one that counts.
    pub(super) fn current(&self, now_ms: u64) -> Option<&Trouble> {
        let fresh = |(trouble, seen_ms): &&(Trouble, u64)| now_ms.saturating_sub(*seen_ms) < trouble.life_ms();
        self.reason.as_ref().filter(fresh).map(|(trouble, _)| trouble).or(self.silence.as_ref())
    }

    /// Something was seen: it counts unless something says more.
    pub(super) fn see(&mut self, trouble: Trouble, now_ms: u64) {
        if trouble.rank() == 0 {
            self.silence = Some(trouble);
        } else if self.current(now_ms).is_none_or(|known| trouble.rank() >= known.rank()) {
            self.reason = Some((trouble, now_ms));
        }
    }

    /// The kernel takes datagrams for it (again).
    pub(super) fn reachable(&mut self) {
        self.reason.take_if(|(trouble, _)| matches!(trouble, Trouble::Unreachable(_)));
    }

    /// The way to it leads elsewhere.
    pub(super) fn unloop(&mut self) {
        self.reason.take_if(|(trouble, _)| matches!(trouble, Trouble::Loop(_)));
    }

    /// The link is up.
    pub(super) fn end(&mut self) {
        *self = Troubles::default();
    }

    /// What the log does not know yet.
    pub(super) fn untold(&mut self, now_ms: u64) -> Option<Trouble> {
        let current = self.current(now_ms).cloned()?;
        (self.told.replace(current.name()) != Some(current.name())).then_some(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_why_is_not_replaced_by_what_says_less_until_it_is_not_seen_any_more() {
        let mut troubles = Troubles::default();
        let network = Trouble::Network(9);
        troubles.see(Trouble::Unheard, 0);
        troubles.see(network.clone(), 1000);
        troubles.see(Trouble::Silent, 2000);
        assert_eq!(troubles.current(15_999), Some(&network));
        assert_eq!(troubles.current(16_000), Some(&Trouble::Silent));
        troubles.see(Trouble::Unreachable("no route".into()), 17_000);
        assert_eq!(troubles.untold(17_000).unwrap().name(), "unreachable");
        troubles.see(Trouble::Unreachable("no route".into()), 18_000);
        assert_eq!(troubles.untold(18_000), None, "told once");
        troubles.reachable();
        assert_eq!(troubles.current(18_000), Some(&Trouble::Silent));
        troubles.see(Trouble::Sec, 19_000);
        assert_eq!(troubles.untold(19_000), Some(Trouble::Sec));
        troubles.reachable();
        assert_eq!(troubles.current(19_000), Some(&Trouble::Sec));
        troubles.end();
        assert_eq!(troubles.current(19_000), None);
    }
}
