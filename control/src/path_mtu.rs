//! Finding the path MTU to a peer by asking: a padded probe either comes back acknowledged or does not.
//!
//! Nothing else is believed (RFC 8899 does the same for transports). The MTU of the interface and of the route, which
//! only this host sets, is the ceiling; the smallest size that any path should carry is where the search starts. What ICMP
//! has told the kernel may be anybody's word, and is a hint: at which size to look first, and when to look again.
//!
//! A hint below the size in use raises a doubt. That size and the hinted one are then probed at once, the larger first. An
//! answer to the larger settles it, and whoever forges ICMP has brought about a few datagrams. If the smaller is answered
//! twice while the larger is not, ICMP was right, and what would take three lost probes takes two round trips.

use ipop_dataplane::peers::{MAX_DATAGRAM, MIN_DATAGRAM};

/// How long to wait for an answer.
const WAIT_MS: u64 = 1000;
/// Probes of one size before it counts as too large.
const TRIES: u32 = 3;
/// Answers to the hinted size alone that confirm a hint.
const PROOFS: u32 = 2;
/// Used when not even this host's interface allows the usual minimum: IPv4's least MTU of 576 octets (RFC 791), less the
/// largest IPv4 header and UDP's.
const LEAST: usize = 576 - 60 - 8;
/// The search ends when it is this close.
const RESOLUTION: usize = 8;
/// After a search that found less than the interface carries, the next one comes after this, and after twice that each time.
const RAISE_FIRST_MS: u64 = 30_000;
const RAISE_LAST_MS: u64 = 600_000;
/// How often the size in use is confirmed.
const CONFIRM_MS: u64 = 10_000;

/// What this host knows of a path without asking. Sizes are octets of UDP payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// What interface and route carry.
    pub ceiling: usize,
    /// What the kernel believes, also from ICMP.
    pub hint: Option<usize>,
}

impl Local {
    /// The same within what is ever used; a hint that says no less is none.
    fn bounded(self) -> Local {
        let ceiling = self.ceiling.clamp(LEAST, MAX_DATAGRAM);
        Local { ceiling, hint: self.hint.map(|hint| hint.max(LEAST)).filter(|hint| *hint < ceiling) }
    }
}

/// The size in use and a smaller one, probed together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Doubt {
    /// The smaller size.
    size: usize,
    /// How often both were sent, and at which of these times the smaller alone was answered last.
    rounds: u32,
    answered: u32,
    proofs: u32,
    /// The larger has been sent, the smaller is next.
    half: bool,
    due: u64,
}

/// The search for one peer. Sizes are octets of UDP payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMtu {
    /// Where the search begins: what is used before anything is acknowledged.
    floor: usize,
    /// Acknowledged, or the floor; in use.
    confirmed: usize,
    /// Not larger than this, as far as probes have shown.
    ceiling: usize,
    local: Local,
    /// When to look again whether the path carries more, and how long to wait after that.
    raise_at: u64,
    raise_ms: u64,
    /// Probe in flight: size, how many were sent, when the next is due.
    probe: Option<(usize, u32, u64)>,
    doubt: Option<Doubt>,
    /// When to confirm again.
    confirm_at: u64,
}

impl PathMtu {
    /// A search that begins now.
    pub fn new(local: Local, now_ms: u64) -> PathMtu {
        let local = local.bounded();
        let (ceiling, floor) = (local.ceiling, local.ceiling.min(MIN_DATAGRAM));
        let first = local.hint.filter(|hint| *hint > floor).unwrap_or(ceiling);
        PathMtu {
            floor,
            confirmed: floor,
            ceiling,
            local,
            raise_at: u64::MAX,
            raise_ms: RAISE_FIRST_MS,
            probe: Some((first, 0, now_ms)),
            doubt: None,
            confirm_at: 0,
        }
    }

    /// What datagrams may have now.
    pub fn size(&self) -> usize {
        self.confirmed
    }

    /// True until the search has ended.
    pub fn is_searching(&self) -> bool {
        self.probe.is_some() || self.doubt.is_some()
    }

    /// A probe to send now, if one is due; to be asked until there is none.
    pub fn poll(&mut self, now_ms: u64) -> Option<usize> {
        if let Some(doubt) = &mut self.doubt {
            if std::mem::take(&mut doubt.half) {
                return Some(doubt.size);
            }
            if now_ms < doubt.due {
                return None;
            }
            if doubt.rounds < TRIES {
                (doubt.rounds, doubt.half, doubt.due) = (doubt.rounds + 1, true, now_ms + WAIT_MS);
                return Some(self.confirmed);
            }
            // Silence to all of it is an outage, and says nothing of sizes.
            self.doubt = None;
        }
        if self.probe.is_none() && now_ms >= self.raise_at {
            // The path may have changed, or an outage was taken for a small path (RFC 8899, PMTU_RAISE_TIMER).
            self.ceiling = self.local.ceiling;
            self.probe = Some((self.ceiling, 0, now_ms));
            self.raise_ms = (self.raise_ms * 2).min(RAISE_LAST_MS);
        } else if self.probe.is_none() && now_ms >= self.confirm_at {
            self.probe = Some((self.confirmed, 0, now_ms));
        }
        let (size, sent, due) = self.probe?;
        if now_ms < due {
            return None;
        }
        if sent == TRIES {
            self.lost(size, now_ms);
            return self.poll(now_ms);
        }
        self.probe = Some((size, sent + 1, now_ms + WAIT_MS));
        Some(size)
    }

    /// A probe of this size was acknowledged. True if [`Self::size`] changed.
    pub fn acknowledged(&mut self, size: usize, now_ms: u64) -> bool {
        if let Some(doubt) = self.doubt.as_mut().filter(|doubt| doubt.rounds > 0) {
            if size == self.confirmed {
                self.doubt = None;
            } else if size == doubt.size && doubt.answered < doubt.rounds {
                (doubt.answered, doubt.proofs, doubt.due) = (doubt.rounds, doubt.proofs + 1, now_ms);
                return doubt.proofs == PROOFS && self.believe(size, now_ms);
            }
        }
        // Only what was asked for: an answer to something else would be a size that a peer made up.
        if !self.probe.is_some_and(|(asked, sent, _)| asked == size && sent > 0) {
            return false;
        }
        let changed = size != self.confirmed;
        self.confirmed = size;
        self.next(now_ms);
        changed
    }

    /// The path carries this, and no longer what was in use.
    fn believe(&mut self, size: usize, now_ms: u64) -> bool {
        (self.doubt, self.probe) = (None, None);
        (self.floor, self.confirmed, self.ceiling) = (self.floor.min(size), size, size);
        self.next(now_ms);
        true
    }

    /// This host has refused a datagram as too large. True if [`Self::size`] changed.
    pub fn too_big(&mut self, local: Local, now_ms: u64) -> bool {
        let (before, bounded) = (self.confirmed, local.bounded());
        // One that was refused for its size is news only if the kernel believes in less: it may have been on its way before the
        // last change, or too much for a send without a copy.
        if bounded.hint.unwrap_or(bounded.ceiling) < before {
            *self = PathMtu::new(local, now_ms);
        }
        before != self.confirmed
    }

    /// What this host knows now. True if [`Self::size`] changed.
    pub fn look(&mut self, local: Local, now_ms: u64) -> bool {
        let (before, local) = (self.local, local.bounded());
        if local.ceiling < self.confirmed {
            return self.too_big(local, now_ms);
        }
        self.local = local;
        if local.ceiling > before.ceiling {
            self.ceiling = local.ceiling;
            self.probe = Some((local.ceiling, 0, now_ms));
        } else if local.ceiling < self.ceiling {
            self.ceiling = local.ceiling;
            if self.probe.is_some_and(|(size, ..)| size > local.ceiling) {
                self.next(now_ms);
            }
        }
        // Said once more it is no news.
        let Some(hint) = local.hint.filter(|_| local.hint != before.hint) else { return false };
        if hint < self.confirmed {
            let doubt = Doubt { size: hint, rounds: 0, answered: 0, proofs: 0, half: false, due: now_ms };
            self.doubt.get_or_insert(doubt);
        } else if hint > self.confirmed && self.probe.is_some_and(|(size, ..)| size > hint) {
            self.probe = Some((hint, 0, now_ms));
        }
        false
    }

    fn lost(&mut self, size: usize, now_ms: u64) {
        if size <= self.confirmed {
            // What worked works no longer. At the floor there is nothing smaller to try.
            let ceiling = if size > self.floor { size - 1 } else { self.ceiling };
            self.confirmed = self.floor;
            self.ceiling = ceiling;
        } else {
            self.ceiling = size - 1;
        }
        self.next(now_ms);
    }

    fn next(&mut self, now_ms: u64) {
        let open = self.ceiling - self.confirmed;
        if open < RESOLUTION {
            self.probe = None;
            self.confirm_at = now_ms + CONFIRM_MS;
            if self.confirmed + RESOLUTION > self.local.ceiling {
                (self.raise_at, self.raise_ms) = (u64::MAX, RAISE_FIRST_MS);
            } else if self.raise_at <= now_ms || self.raise_at == u64::MAX {
                self.raise_at = now_ms + self.raise_ms;
            }
        } else {
            self.probe = Some((self.confirmed + open.div_ceil(2), 0, now_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(ceiling: usize) -> Local {
        Local { ceiling, hint: None }
    }

    /// Plays a path that carries `carries` octets; returns the size found and how long it took.
    fn search(ceiling: usize, carries: usize) -> (usize, u64) {
        let mut path = PathMtu::new(local(ceiling), 0);
        let mut now = 0;
        while path.is_searching() && now < 200_000 {
            if let Some(size) = path.poll(now)
                && size <= carries
            {
                path.acknowledged(size, now + 1);
            }
            now += 100;
        }
        (path.size(), now)
    }

    #[test]
    fn the_interface_is_right_at_once() {
        assert_eq!(search(1472, 1472), (1472, 100));
    }

    #[test]
    fn a_black_hole_is_found() {
        for carries in [MIN_DATAGRAM, 1300, 1372, 1400, 1471] {
            let (size, took) = search(1472, carries);
            assert!(size <= carries && size + RESOLUTION >= carries, "{carries}: {size}");
            assert!(took < 30_000, "{took}");
        }
    }

    #[test]
    fn a_path_that_shrinks_is_noticed() {
        let mut path = PathMtu::new(local(1472), 0);
        assert_eq!(path.poll(0), Some(1472));
        assert!(path.acknowledged(1472, 1));
        assert_eq!(path.poll(9_000), None);
        let mut now = 11_000;
        while path.is_searching() || path.size() == 1472 {
            if let Some(size) = path.poll(now)
                && size <= 1400
            {
                path.acknowledged(size, now);
            }
            now += 100;
        }
        assert!((1392..=1400).contains(&path.size()), "{}", path.size());
    }

    #[test]
    fn an_outage_does_not_lower_it_for_good() {
        let mut path = PathMtu::new(local(1472), 0);
        path.poll(0);
        path.acknowledged(1472, 1);
        let (mut lowest, mut now) = (1472, 1);
        while now < 200_000 {
            let outage = (9_000..25_000).contains(&now);
            if let Some(size) = path.poll(now)
                && !outage
            {
                path.acknowledged(size, now);
            }
            lowest = lowest.min(path.size());
            now += 100;
        }
        assert_eq!((lowest, path.size()), (MIN_DATAGRAM, 1472));
    }

    #[test]
    fn a_black_hole_is_looked_at_again_and_again_but_not_often() {
        let mut path = PathMtu::new(local(1472), 0);
        let (mut large, mut now) = (0, 0);
        while now < 3_600_000 {
            if let Some(size) = path.poll(now) {
                if size <= 1400 {
                    path.acknowledged(size, now);
                }
                large += u32::from(size == 1472);
            }
            now += 100;
        }
        assert!((1392..=1400).contains(&path.size()), "{}", path.size());
        assert!((9..60).contains(&large), "{large} probes of the full size in an hour");
    }

    #[test]
    fn sizes_that_were_not_asked_for_are_ignored() {
        let mut path = PathMtu::new(local(1472), 0);
        assert!(!path.acknowledged(1472, 0));
        path.poll(0);
        assert!(!path.acknowledged(9000, 1));
        assert_eq!(path.size(), MIN_DATAGRAM);
    }

    #[test]
    fn a_path_below_the_usual_minimum() {
        assert_eq!(search(972, 972).0, 972);
        assert_eq!(PathMtu::new(local(100), 0).size(), LEAST);
    }

    #[test]
    fn the_interface_carries_more() {
        let mut path = confirmed(1472);
        assert!(!path.look(local(1472), 2));
        assert!(!path.is_searching());
        path.look(local(8972), 3);
        assert_eq!((path.size(), path.poll(3)), (1472, Some(8972)));
        assert!(path.acknowledged(8972, 4));
    }

    #[test]
    fn the_interface_carries_less() {
        for look in [PathMtu::look, PathMtu::too_big] {
            let mut path = confirmed(1472);
            assert!(look(&mut path, local(1400), 2));
            assert_eq!((path.size(), path.poll(2)), (MIN_DATAGRAM, Some(1400)));
        }
    }

    #[test]
    fn the_host_refuses_what_its_interface_carries() {
        // IPsec takes its part on the way out, and no interface shows it.
        let mut path = confirmed(1472);
        assert!(path.too_big(told(1472, 1400), 2));
        assert_eq!((path.size(), path.poll(2)), (MIN_DATAGRAM, Some(1400)));
        assert!(path.acknowledged(1400, 3));
    }

    #[test]
    fn a_refusal_that_the_kernel_does_not_explain_changes_nothing() {
        let mut path = confirmed(1472);
        assert!(!path.too_big(local(1472), 2));
        assert_eq!((path.size(), path.is_searching()), (1472, false));
    }

    fn confirmed(size: usize) -> PathMtu {
        let mut path = PathMtu::new(local(size), 0);
        assert_eq!(path.poll(0), Some(size));
        assert!(path.acknowledged(size, 1));
        path
    }

    fn told(ceiling: usize, hint: usize) -> Local {
        Local { ceiling, hint: Some(hint) }
    }

    /// All that is sent now.
    fn sent(path: &mut PathMtu, now_ms: u64) -> Vec<usize> {
        std::iter::from_fn(|| path.poll(now_ms)).collect()
    }

    #[test]
    fn a_forged_hint_costs_two_probes() {
        for lie in [1, 524, 1300] {
            let (mut path, small) = (confirmed(1472), lie.max(LEAST));
            assert!(!path.look(told(1472, lie), 100));
            assert_eq!(sent(&mut path, 100), [1472, small]);
            assert!(!path.acknowledged(1472, 101) && !path.acknowledged(small, 102));
            assert_eq!((path.size(), path.is_searching()), (1472, false));
            // Said once more it is no news.
            path.look(told(1472, lie), 103);
            assert!(sent(&mut path, 104).is_empty());
        }
    }

    #[test]
    fn an_honest_hint_takes_two_round_trips() {
        for carries in [800, 1372] {
            let mut path = confirmed(1472);
            path.look(told(1472, carries), 100);
            assert_eq!(sent(&mut path, 100), [1472, carries]);
            assert!(!path.acknowledged(carries, 130));
            assert_eq!(sent(&mut path, 130), [1472, carries]);
            assert!(path.acknowledged(carries, 160));
            assert_eq!((path.size(), path.is_searching()), (carries, false));
            // And up again, when the path carries more.
            assert_eq!(path.poll(160 + RAISE_FIRST_MS), Some(1472));
            assert!(path.acknowledged(1472, 161 + RAISE_FIRST_MS));
        }
    }

    #[test]
    fn one_lost_probe_beside_a_forged_hint_is_not_enough() {
        let mut path = confirmed(1472);
        path.look(told(1472, 524), 100);
        sent(&mut path, 100);
        // The same answer twice is one.
        assert!(!path.acknowledged(524, 110) && !path.acknowledged(524, 110));
        sent(&mut path, 110);
        assert!(!path.acknowledged(1472, 120) && !path.acknowledged(524, 121));
        assert_eq!((path.size(), path.is_searching()), (1472, false));
    }

    #[test]
    fn an_outage_beside_a_hint_says_nothing_of_sizes() {
        let mut path = confirmed(1472);
        path.look(told(1472, 524), 100);
        let mut now = 100;
        while path.doubt.is_some() {
            sent(&mut path, now);
            now += 100;
        }
        assert_eq!(path.size(), 1472);
        assert!(now < 4000);
    }

    #[test]
    fn a_search_looks_first_where_the_hint_says() {
        let mut path = PathMtu::new(told(1472, 1372), 0);
        assert_eq!(sent(&mut path, 0), [1372]);
        assert!(path.acknowledged(1372, 1));
        // One that came meanwhile, too; what is below the floor helps nothing.
        let mut path = PathMtu::new(told(1472, 600), 0);
        assert_eq!(sent(&mut path, 0), [1472]);
        path.look(told(1472, 1372), 5);
        assert_eq!(sent(&mut path, 5), [1372]);
    }
}
