//! As much of Ethernet and ARP as a test needs to send a request and to recognise an answer.

use std::fmt;
use std::net::Ipv4Addr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Everyone.
pub const BROADCAST: Mac = [0xff; 6];

/// EtherType and the fixed part of ARP over Ethernet for IPv4: hardware, protocol, both address lengths.
const HEAD: [u8; 8] = [0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4];
/// The shortest frame that Ethernet carries, without its check sequence.
const SHORTEST: usize = 60;

/// What an ARP message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target's address?
    Request,
    /// The sender has the sender's address.
    Reply,
}

/// An untagged ARP message in its Ethernet frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Source of the frame.
    pub source: Mac,
    /// Destination of the frame.
    pub destination: Mac,
    /// Request or reply.
    pub operation: Operation,
    /// The sender's MAC, as ARP tells it.
    pub sender_mac: Mac,
    /// The sender's address.
    pub sender_ip: Ipv4Addr,
    /// The target's MAC; zero in a request.
    pub target_mac: Mac,
    /// The target's address.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// A broadcast request.
    pub fn request(sender_mac: Mac, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        Self {
            source: sender_mac,
            destination: BROADCAST,
            operation: Operation::Request,
            sender_mac,
            sender_ip,
            target_mac: [0; 6],
            target_ip,
        }
    }

    /// A unicast reply.
    pub fn reply(sender_mac: Mac, sender_ip: Ipv4Addr, target_mac: Mac, target_ip: Ipv4Addr) -> Self {
        Self {
            source: sender_mac,
            destination: target_mac,
            operation: Operation::Reply,
            sender_mac,
            sender_ip,
            target_mac,
            target_ip,
        }
    }

    /// Reads a frame; `None` if it is something else than ARP for IPv4.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let mut rest = frame;
        let destination = take(&mut rest)?;
        let source = take(&mut rest)?;
        if take::<8>(&mut rest)? != HEAD {
            return None;
        }
        let operation = match take::<2>(&mut rest)? {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return None,
        };
        Some(Self {
            source,
            destination,
            operation,
            sender_mac: take(&mut rest)?,
            sender_ip: take::<4>(&mut rest)?.into(),
            target_mac: take(&mut rest)?,
            target_ip: take::<4>(&mut rest)?.into(),
        })
    }

    /// The frame, padded to the shortest that Ethernet carries.
    pub fn frame(&self) -> Vec<u8> {
        let operation = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        let mut frame = Vec::with_capacity(SHORTEST);
        frame.extend(self.destination);
        frame.extend(self.source);
        frame.extend(HEAD);
        frame.extend([0, operation]);
        frame.extend(self.sender_mac);
        frame.extend(self.sender_ip.octets());
        frame.extend(self.target_mac);
        frame.extend(self.target_ip.octets());
        frame.resize(SHORTEST, 0);
        frame
    }
}

impl fmt::Display for Arp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            Operation::Request => write!(f, "who has {}? tell {}", self.target_ip, self.sender_ip)?,
            Operation::Reply => write!(f, "{} is at {}", self.sender_ip, format_mac(self.sender_mac))?,
        }
        let to = if self.destination == BROADCAST { "everyone".to_owned() } else { format_mac(self.destination) };
        write!(f, "  ({} to {to})", format_mac(self.source))
    }
}

/// A gratuitous ARP request: "this address is mine, and this is my MAC".
pub fn gratuitous(mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
    Arp::request(mac, ip, ip).frame()
}

/// Reads `00:16:3e:00:00:01`: six pairs of hexadecimal digits.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        // from_str_radix alone would take "+1" too.
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Writes a MAC with colons.
pub fn format_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [0, 0x16, 0x3e, 0, 0, 1];
    const B: Mac = [0, 0x16, 0x3e, 0, 0, 2];

    #[test]
    fn messages_survive_the_wire() {
        let (asker, target) = (Ipv4Addr::new(10, 0, 3, 3), Ipv4Addr::new(10, 0, 3, 104));
        for message in [Arp::request(A, asker, target), Arp::reply(B, target, A, asker)] {
            let frame = message.frame();
            assert_eq!(frame.len(), SHORTEST);
            assert_eq!(Arp::parse(&frame), Some(message));
            assert_eq!(Arp::parse(&frame[..41]), None);
        }
    }

    #[test]
    fn macs_are_read_strictly() {
        assert_eq!(parse_mac("00:16:3e:00:00:01"), Some(A));
        assert_eq!(format_mac(A), "00:16:3e:00:00:01");
        for wrong in ["", "00:16:3e:00:00", "+0:16:3e:00:00:01", "00:16:3e:00:00:01:02", "0:16:3e:00:00:001"] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }
}
