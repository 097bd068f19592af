//! Finding the path MTU to a peer by asking: a padded probe either comes back acknowledged or does not.
//!
//! ICMP is not trusted to arrive (RFC 8899 does the same for transports). What the kernel knows from routes and ICMP is
//! the ceiling; the smallest size that any path must carry is where it starts.

use ipop_dataplane::peers::{MAX_DATAGRAM, MIN_DATAGRAM};

/// How long to wait for an answer.
const WAIT_MS: u64 = 1000;
/// Probes of one size before it counts as too large.
const TRIES: u32 = 3;
/// Used when not even the kernel's word allows the usual minimum: IPv4's least MTU of 576 octets (RFC 791), less the largest
/// IPv4 header and UDP's.
const LEAST: usize = 576 - 60 - 8;
/// The search ends when it is this close.
const RESOLUTION: usize = 8;
/// After a search that found less than the kernel believes, the next one comes after this, and after twice that each time.
const RAISE_FIRST_MS: u64 = 30_000;
const RAISE_LAST_MS: u64 = 600_000;
/// How often the size in use is confirmed.
const CONFIRM_MS: u64 = 10_000;

/// The search for one peer. Sizes are octets of UDP payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMtu {
    /// Where the search begins: what is used before anything is acknowledged.
    floor: usize,
    /// Acknowledged, or the floor; in use.
    confirmed: usize,
    /// Not larger than this, as far as probes have shown.
    ceiling: usize,
    /// Not larger than this, as the kernel believes.
    kernel: usize,
    /// When to look again whether the path carries more, and how long to wait after that.
    raise_at: u64,
    raise_ms: u64,
    /// Probe in flight: size, how many were sent, when the next is due.
    probe: Option<(usize, u32, u64)>,
    /// When to confirm again.
    confirm_at: u64,
}

impl PathMtu {
    /// A search that begins now. `kernel` is what the kernel believes the path carries.
    pub fn new(kernel: usize, now_ms: u64) -> PathMtu {
        let ceiling = kernel.clamp(LEAST, MAX_DATAGRAM);
        let floor = ceiling.min(MIN_DATAGRAM);
        let probe = Some((ceiling, 0, now_ms));
        let (kernel, raise_at, raise_ms) = (ceiling, u64::MAX, RAISE_FIRST_MS);
        PathMtu { floor, confirmed: floor, ceiling, kernel, raise_at, raise_ms, probe, confirm_at: 0 }
    }

    /// What datagrams may have now.
    pub fn size(&self) -> usize {
        self.confirmed
    }

    /// True until the search has ended.
    pub fn is_searching(&self) -> bool {
        self.probe.is_some()
    }

    /// The probe to send now, if one is due.
    pub fn poll(&mut self, now_ms: u64) -> Option<usize> {
        if self.probe.is_none() && now_ms >= self.raise_at {
            // The path may have changed, or an outage was taken for a small path (RFC 8899, PMTU_RAISE_TIMER).
            self.ceiling = self.kernel;
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
        // Only what was asked for: an answer to something else would be a size that a peer made up.
        if !self.probe.is_some_and(|(asked, sent, _)| asked == size && sent > 0) {
            return false;
        }
        let changed = size != self.confirmed;
        self.confirmed = size;
        self.next(now_ms);
        changed
    }

    /// The kernel refused a datagram as too large, and believes in this size now. True if [`Self::size`] changed.
    pub fn too_big(&mut self, kernel: usize, now_ms: u64) -> bool {
        let before = self.confirmed;
        if kernel < self.confirmed {
            *self = PathMtu::new(kernel, now_ms);
        }
        before != self.confirmed
    }

    /// The kernel's present belief. If it is more than before, the search begins again from what is in use.
    pub fn kernel_says(&mut self, kernel: usize, now_ms: u64) {
        let kernel = kernel.min(MAX_DATAGRAM);
        if kernel > self.kernel {
            (self.kernel, self.ceiling) = (kernel, kernel);
            self.probe = Some((kernel, 0, now_ms));
        }
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
            if self.confirmed + RESOLUTION > self.kernel {
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

    /// Plays a path that carries `carries` octets; returns the size found and how long it took.
    fn search(kernel: usize, carries: usize) -> (usize, u64) {
        let mut path = PathMtu::new(kernel, 0);
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
    fn the_kernel_is_right_at_once() {
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
        let mut path = PathMtu::new(1472, 0);
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
        let mut path = PathMtu::new(1472, 0);
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
        let mut path = PathMtu::new(1472, 0);
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
        let mut path = PathMtu::new(1472, 0);
        assert!(!path.acknowledged(1472, 0));
        path.poll(0);
        assert!(!path.acknowledged(9000, 1));
        assert_eq!(path.size(), MIN_DATAGRAM);
    }

    #[test]
    fn a_path_below_the_usual_minimum() {
        assert_eq!(search(972, 972).0, 972);
        assert_eq!(PathMtu::new(100, 0).size(), LEAST);
    }

    #[test]
    fn the_kernel_says_larger() {
        let mut path = PathMtu::new(1472, 0);
        path.poll(0);
        path.acknowledged(1472, 1);
        path.kernel_says(1472, 2);
        assert!(!path.is_searching());
        path.kernel_says(8972, 3);
        assert_eq!((path.size(), path.poll(3)), (1472, Some(8972)));
        assert!(path.acknowledged(8972, 4));
    }

    #[test]
    fn the_kernel_says_smaller() {
        let mut path = PathMtu::new(1472, 0);
        path.poll(0);
        path.acknowledged(1472, 1);
        assert!(path.too_big(1400, 2));
        assert_eq!((path.size(), path.poll(2)), (MIN_DATAGRAM, Some(1400)));
    }
}
