//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// One's complement sum of `bytes` as 16-bit words in network order, added to `sum`; an odd last byte
/// counts as the high half of a word. Fold with [`fold`].
pub fn add(bytes: &[u8], sum: u64) -> u64 {
    // Eight bytes at a time: the one's complement sum does not depend on the word size as long as the
    // carries are kept (RFC 1071, section 2), and 64 KiB of 32-bit words cannot overflow a u64.
    let mut total = sum;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7]]);
        total += (word >> 32) + (word & 0xffff_ffff);
    }
    for pair in chunks.remainder().chunks(2) {
        total += match *pair {
            [hi, lo] => u64::from(u16::from_be_bytes([hi, lo])),
            [hi] => u64::from(hi) << 8,
            _ => 0,
        };
    }
    total
}

/// Folds a sum to 16 bits. Not complemented: this is what stands in the checksum field of a packet
/// whose checksum is still to be finished (`CHECKSUM_PARTIAL`, Documentation/networking/checksum-offloads.rst).
pub fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sum of the pseudo-header of TCP, UDP (RFC 9293, 3.1) and ICMPv6 (RFC 8200, 8.1), unfolded.
/// Addresses of different families give the sum of both as they are.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u64 {
    let add_ip = |ip: IpAddr, sum: u64| match ip {
        IpAddr::V4(ip) => add(&ip.octets(), sum),
        IpAddr::V6(ip) => add(&ip.octets(), sum),
    };
    add_ip(dst, add_ip(src, u64::from(protocol) + len as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The textbook loop of RFC 1071, section 4.1.
    fn oracle(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for i in (0..bytes.len()).step_by(2) {
            let hi = u32::from(bytes[i]) << 8;
            let lo = bytes.get(i + 1).map_or(0, |b| u32::from(*b));
            sum += hi | lo;
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(fold(add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)), 0xddf2);
    }

    proptest! {
        #[test]
        fn same_as_the_textbook(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(fold(add(&bytes, 0)), oracle(&bytes));
        }
    }
}
