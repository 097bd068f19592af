//! The octet of IP that says how a packet is to be treated: DSCP in the upper six bits (RFC 2474), ECN in the lower two
//! (RFC 3168). What a tunnel does with it: RFC 6040 for ECN, RFC 2983 for DSCP.

use super::ethernet::{Frame, ethertype};

/// The bits of ECN.
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// What datagrams carry outside for what is in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OuterClass {
    inherited: u8,
    fixed: u8,
}

impl OuterClass {
    /// The frame's own DSCP.
    pub const INHERIT: OuterClass = OuterClass { inherited: 0xff, fixed: 0 };

    /// Always this DSCP. `None` above 63.
    pub fn fixed(dscp: u8) -> Option<OuterClass> {
        (dscp < 64).then_some(OuterClass { inherited: ECN, fixed: dscp << 2 })
    }

    /// For a frame. ECN is the frame's in any case (RFC 6040, section 4.1, normal mode).
    pub fn of(self, frame: &Frame<'_>) -> u8 {
        class_of(frame) & self.inherited | self.fixed
    }
}

impl Default for OuterClass {
    /// Of no special treatment, as the kernel's VXLAN has it.
    fn default() -> Self {
        OuterClass { inherited: ECN, fixed: 0 }
    }
}

/// The octet of a frame; 0 if it is not IP.
fn class_of(frame: &Frame<'_>) -> u8 {
    match (frame.ethertype, frame.bytes.get(frame.l3..frame.l3 + 2)) {
        (ethertype::IPV4, Some(&[_, class])) => class,
        (ethertype::IPV6, Some(&[high, low])) => high << 4 | low >> 4,
        _ => 0,
    }
}

/// True if a datagram that arrived with this class may change what is in it: a router marked it, or its sender is of the kind
/// that says so by the mark itself (RFC 9331).
pub fn may_change(outer: u8) -> bool {
    matches!(outer & ECN, CE | ECT_1)
}

/// True if a router has marked it in the place of dropping it.
pub fn is_congestion(outer: u8) -> bool {
    outer & ECN == CE
}

/// The frame cannot carry the mark: its transport would not know what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotCapable;

/// Gives a frame, or the headers of one, the mark of the datagram that brought it (RFC 6040, figure 4). Its DSCP stays: that of
/// the datagram was for the way (RFC 2983, pipe model).
pub fn take_mark(bytes: &mut [u8], outer: u8) -> Result<(), NotCapable> {
    let Ok(frame) = Frame::parse(bytes) else { return Ok(()) };
    let (class, l3, kind) = (class_of(&frame), frame.l3, frame.ethertype);
    if !matches!(kind, ethertype::IPV4 | ethertype::IPV6) {
        return Ok(());
    }
    let mark = match (outer & ECN, class & ECN) {
        (CE, NOT_ECT) => return Err(NotCapable),
        (CE, _) => CE,
        (ECT_1, ECT_0) => ECT_1,
        _ => return Ok(()),
    };
    set(bytes, l3, kind, class & !ECN | mark);
    Ok(())
}

fn set(bytes: &mut [u8], l3: usize, kind: u16, class: u8) {
    let Some(header) = bytes.get_mut(l3..) else { return };
    match (kind, header) {
        (ethertype::IPV4, [first, old, _, _, _, _, _, _, _, _, high, low, ..]) => {
            // RFC 1624, equation 3: only one word has changed.
            let sum = u32::from(!u16::from_be_bytes([*high, *low]))
                + u32::from(!u16::from_be_bytes([*first, *old]))
                + u32::from(u16::from_be_bytes([*first, class]));
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
            *old = class;
            [*high, *low] = sum.to_be_bytes();
        }
        (ethertype::IPV6, [first, second, ..]) => {
            *first = *first & 0xf0 | class >> 4;
            *second = class << 4 | *second & 0x0f;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::{add, fold};

    fn v4(class: u8, tag: bool) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if tag {
            frame.extend([0x81, 0x00, 0x60, 0x0a]);
        }
        frame.extend([0x08, 0x00]);
        let at = frame.len();
        frame.extend([0x45, class, 0, 40, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 3, 1, 10, 0, 3, 104]);
        let sum = !fold(add(&frame[at..], 0));
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        frame.extend([0; 20]);
        frame
    }

    fn v6(class: u8) -> Vec<u8> {
        let mut frame =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60 | class >> 4, class << 4 | 0x0a, 0xbc, 0xde];
        frame.resize(60, 0);
        frame
    }

    /// RFC 6040, figure 4: rows are the inner field, columns the outer one; both in the order of their numbers.
    #[test]
    fn marks_come_in_as_the_rfc_says() {
        let table: [[Option<u8>; 4]; 4] = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)],
            [Some(CE), Some(CE), Some(CE), Some(CE)],
        ];
        for (inner, row) in (0u8..).zip(table) {
            for (outer, expected) in (0u8..).zip(row) {
                for (dscp, tag) in [(0, false), (46, true)] {
                    let class = dscp << 2 | inner;
                    for (mut frame, make) in [
                        (v4(class, tag), (|class, tag| v4(class, tag)) as fn(u8, bool) -> Vec<u8>),
                        (v6(class), |class, _| v6(class)),
                    ] {
                        let took = take_mark(&mut frame, 0xb8 | outer);
                        assert_eq!(took.is_ok(), expected.is_some(), "{inner:02b} in {outer:02b}");
                        let wanted = make(dscp << 2 | expected.unwrap_or(inner), tag);
                        assert_eq!(frame, wanted, "{inner:02b} in {outer:02b}");
                        assert!(may_change(outer) || expected == Some(inner));
                    }
                }
            }
        }
    }

    #[test]
    fn what_goes_out_has_the_marks_of_the_frame_and_the_class_of_the_config() {
        for (bytes, class) in [(v4(0xba, true), 0xba), (v6(0x2f), 0x2f), (vec![0xff; 60], 0)] {
            let frame = Frame::parse(&bytes).unwrap();
            assert_eq!(OuterClass::INHERIT.of(&frame), class);
            assert_eq!(OuterClass::default().of(&frame), class & 3);
            assert_eq!(OuterClass::fixed(46).unwrap().of(&frame), 46 << 2 | class & 3);
        }
        assert_eq!(OuterClass::fixed(64), None);
    }

    #[test]
    fn every_octet_of_a_short_frame_is_harmless() {
        let whole = v4(2, false);
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            let _ = take_mark(&mut cut, CE);
        }
    }
}
