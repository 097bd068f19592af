//! Claims that were refused: counted each, logged once a minute for each peer and reason.

use std::collections::{BTreeMap, HashMap};

use ipop_dataplane::addr::MacAddr;
use ipop_dataplane::mac_table::Owner;

use crate::limits::{Reason, Refusal};

/// How many there were.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: HashMap<Reason, u64>,
}

impl Refusals {
    /// Counts one, and gives the line that tells an operator of it. `place` is the peer's name, or "local". `holder` has the
    /// address that it is about, and where.
    pub(super) fn add(&mut self, refusal: &Refusal, place: &str, holder: Option<(MacAddr, String)>) -> String {
        *self.counts.entry(refusal.reason).or_insert(0) += 1;
        let (mac, why, name) = (refusal.mac, refusal.reason.describe(), refusal.reason.name());
        let ip = refusal.ip.map_or(String::new(), |ip| format!("{ip} at "));
        let holder = holder.map_or(String::new(), |(mac, place)| format!(" ({mac}, {place})"));
        match refusal.who {
            Owner::Local => format!("{ip}{mac} on this side is not entered: {why}{holder}; counted as {name}"),
            Owner::Peer(_) => format!("peer {place} claims {ip}{mac}, in vain: {why}{holder}; counted as {name}"),
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
    fn each_is_counted_by_its_reason() {
        let mut refusals = Refusals::default();
        let refusal = |peer, reason| Refusal {
            who: Owner::Peer(PeerId(peer)),
            reason,
            mac: MacAddr::ZERO,
            ip: None,
            holder: None,
        };
        let (mac, ip) = (refusal(0, Reason::MacNotAllowed), refusal(0, Reason::IpNotAllowed));
        for refusal in [&mac, &mac, &ip, &refusal(1, Reason::MacNotAllowed)] {
            let line = refusals.add(refusal, "gw-b", None);
            assert!(line.starts_with("peer gw-b claims 00:00:00:00:00:00, in vain: "), "{line}");
        }
        let report = refusals.report();
        assert_eq!((report["mac_not_allowed"], report["ip_not_allowed"], report["peer_macs"]), (3, 1, 0));
    }
}
