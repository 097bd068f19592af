//! Claims that were refused: counted each, logged once a minute for each peer and reason.

use std::collections::{BTreeMap, HashMap};

use ipop_dataplane::addr::MacAddr;
use ipop_dataplane::mac_table::Owner;
use tracing::warn;

use crate::limits::{Reason, Refusal};

/// Between two lines of the log about the same.
const LOG_MS: u64 = 60_000;

/// How many there were, and when the next of a kind may be logged.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: HashMap<Reason, u64>,
    log_at_ms: HashMap<(Owner, Reason), u64>,
}

impl Refusals {
    /// Counts one; true if it is to be logged.
    fn count(&mut self, refusal: &Refusal, now_ms: u64) -> bool {
        *self.counts.entry(refusal.reason).or_insert(0) += 1;
        let log_at_ms = self.log_at_ms.entry((refusal.who, refusal.reason)).or_insert(0);
        let due = now_ms >= *log_at_ms;
        if due {
            *log_at_ms = now_ms + LOG_MS;
        }
        due
    }

    /// Counts one, and tells an operator if it is the first for a while. `place` is the peer's name, or "local".
    /// `holder` has the address that it is about, and where.
    pub(super) fn add(&mut self, refusal: &Refusal, place: &str, holder: Option<(MacAddr, String)>, now_ms: u64) {
        if !self.count(refusal, now_ms) {
            return;
        }
        let (mac, why, name) = (refusal.mac, refusal.reason.describe(), refusal.reason.name());
        let ip = refusal.ip.map_or(String::new(), |ip| format!("{ip} at "));
        let holder = holder.map_or(String::new(), |(mac, place)| format!(" ({mac}, {place})"));
        match refusal.who {
            Owner::Local => {
                warn!(
                    "{ip}{mac} on this side is not entered: {why}{holder}; more in the next minute are counted as {name}"
                )
            }
            Owner::Peer(_) => {
                warn!(
                    "peer {place} claims {ip}{mac}, in vain: {why}{holder}; more in the next minute are counted as {name}"
                )
            }
        }
    }

    /// All reasons with their counts, for `ipop status`.
    pub(super) fn report(&self) -> BTreeMap<String, u64> {
        let count = |reason: &Reason| self.counts.get(reason).copied().unwrap_or(0);
        Reason::ALL.iter().map(|reason| (reason.name().to_owned(), count(reason))).collect()
    }
}

#[cfg(test)]
mod tests {
    use ipop_dataplane::addr::PeerId;

    use super::*;

    #[test]
    fn each_is_counted_and_one_a_minute_logged() {
        let mut refusals = Refusals::default();
        let refusal = |peer, reason| Refusal {
            who: Owner::Peer(PeerId(peer)),
            reason,
            mac: MacAddr::ZERO,
            ip: None,
            holder: None,
        };
        let (mac, ip) = (refusal(0, Reason::MacNotAllowed), refusal(0, Reason::IpNotAllowed));
        assert!(refusals.count(&mac, 5));
        assert!(!refusals.count(&mac, 60_004));
        assert!(refusals.count(&ip, 6) && refusals.count(&refusal(1, Reason::MacNotAllowed), 6));
        assert!(refusals.count(&mac, 60_005));
        let report = refusals.report();
        assert_eq!((report["mac_not_allowed"], report["ip_not_allowed"], report["peer_macs"]), (4, 1, 0));
    }
}
