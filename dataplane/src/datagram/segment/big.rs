//! TCP super-frames of more than 64 KiB ("BIG TCP") become several that are not.

use super::{Headers, MAX_HEADERS, Run, SuperFrame, Transport};
use crate::wire::ethernet::{Frame, MAX_FRAME, ethertype};
use crate::wire::ip::{IPV6_HEADER_LEN, protocol};

impl<'a> SuperFrame<'a> {
    /// True if it is longer than IP can say, and than a slice's place: then only its parts can be cut.
    pub fn is_big(&self) -> bool {
        self.headers.len() + self.payload.len() > MAX_FRAME
    }

    /// As much of it from `from` on, the end of the part before, as IP can express: the headers in `scratch` are what the
    /// kernel's own segmentation would make for that place. `None` if it cannot be divided.
    pub fn part<'b>(&self, from: usize, scratch: &'b mut [u8; MAX_HEADERS]) -> Option<SuperFrame<'b>>
    where
        'a: 'b,
    {
        let headers = without_jumbo_option(self.headers, scratch)?;
        let layout = Headers::validate(headers).ok().filter(|layout| layout.transport == Transport::Tcp)?;
        let most = (65_535 - headers.len()).checked_div(self.gso_size.into())? * usize::from(self.gso_size);
        let rest = self.payload.get(from..).filter(|rest| most > 0 && !rest.is_empty())?;
        let (len, last) = (rest.len().min(most), rest.len() <= most);
        let (gso_size, ecn, transport) = (self.gso_size, self.ecn && from == 0, self.transport);
        layout.patch(headers, &Run { number: 0, offset: from, len, gso_size, ecn, last, transport });
        Some(SuperFrame { transport, headers, payload: &rest[..len], gso_size, ecn })
    }
}

/// Copies headers to `scratch`, without the hop-by-hop header that has the length of a TCP packet of more than 64 KiB and
/// nothing else (`struct hop_jumbo_hdr`, include/net/ipv6.h).
fn without_jumbo_option<'b>(headers: &[u8], scratch: &'b mut [u8; MAX_HEADERS]) -> Option<&'b mut [u8]> {
    const LEN: usize = 8;
    let frame = Frame::parse(headers).ok()?;
    let at = frame.l3 + IPV6_HEADER_LEN;
    let next_header = frame.l3 + 6;
    let option = match headers.get(at..at + LEN) {
        // Next header, no more than 8 octets, the option "jumbo payload" and its length (RFC 2675, section 2).
        Some(&[next, 0, 0xc2, 4, ..])
            if frame.ethertype == ethertype::IPV6 && headers[next_header] == protocol::HOP_BY_HOP =>
        {
            Some(next)
        }
        _ => None,
    };
    let Some(next) = option else {
        let copy = scratch.get_mut(..headers.len())?;
        copy.copy_from_slice(headers);
        return Some(copy);
    };
    let copy = scratch.get_mut(..headers.len() - LEN)?;
    copy[..at].copy_from_slice(&headers[..at]);
    copy[at..].copy_from_slice(&headers[at + LEN..]);
    copy[next_header] = next;
    Some(copy)
}
