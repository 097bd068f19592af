//! What the control thread sends: handshakes, messages and frames to peers, frames to the port.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::datagram::record;
use ipop_dataplane::ending::Ending;
use ipop_dataplane::port::{refusal, write_frame};
use ipop_dataplane::wire::VnetHeader;
use ipop_dataplane::wire::vnet::PartialChecksum;
use tracing::{Level, debug};
use zerocopy::IntoBytes;

use super::throttle::About;
use super::{Gateway, RPC_LOG, peer_name};
use crate::action::{Action, To};
use crate::link::Link;
use crate::report::RpcMessage;
use crate::rpc::{MacQuery, Message};

/// Messages are filled up to a multiple of this, as far as a datagram has room: most are shorter, so that what they are
/// about does not show by their lengths.
const MESSAGE_SIZE: usize = 512;

impl Gateway {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Inject(frame) => drop(self.inject(&frame, None)),
            Action::Message(to, message) => {
                let name = match to {
                    To::All => "all".to_owned(),
                    To::Peer(peer) => peer_name(&self.links, peer),
                };
                self.remember("sent", name, &message);
                for peer in self.receivers(to) {
                    self.send_message(peer, &message);
                }
            }
            Action::MacQuery(holder, query, claimant) => {
                let claimant = claimant.and_then(|peer| self.links.get(peer.index())?.identity()).map(|(uid, _)| uid);
                self.perform(Action::Message(To::Peer(holder), Message::MacQuery(MacQuery { claimant, ..query })));
            }
            Action::Refuse(refusal) => {
                let place = self.place(refusal.who);
                let holder = refusal.holder.map(|(mac, owner)| (mac, self.place(owner)));
                let line = self.refusals.add(&refusal, &place, holder);
                self.say(About::Claim(refusal.who, refusal.reason), Level::WARN, line);
            }
            Action::Frozen(key, owner) => {
                let place = owner.map_or("nowhere".to_owned(), |owner| self.place(owner));
                let line = format!(
                    "the MAC {} (VLAN {}) was claimed by others again and again, and is frozen where it is alive ({place}) for \
                     {} s (\"mac_freeze\"); `ipop macs release {}` ends that",
                    key.mac(),
                    key.vlan(),
                    self.config.mac_freeze,
                    key.mac(),
                );
                self.say(About::Frozen, Level::WARN, line);
            }
            Action::Frame(to, frame) => {
                for peer in self.receivers(to) {
                    self.send_frame(peer, &frame);
                }
            }
        }
    }

    fn receivers(&self, to: To) -> Vec<PeerId> {
        match to {
            To::All => self.links.iter().filter(|link| link.is_up()).map(Link::id).collect(),
            To::Peer(peer) if self.is_up(peer) => vec![peer],
            To::Peer(_) => vec![],
        }
    }

    /// The kernel runs the whole receive path of the bridge in this call (or that of sending through the interface); the workers are not concerned.
    /// False if the port did not take the frame.
    pub(super) fn inject(&mut self, frame: &[u8], csum: Option<PartialChecksum>) -> bool {
        let Some(queue) = self.port.queues().first() else { return false };
        let bytes = [VnetHeader::plain(csum).as_bytes(), frame].concat();
        let result = write_frame(queue.as_fd(), &bytes);
        if let Err(error) = &result {
            debug!("a frame could not be written to {}: {error}", self.port.name());
            self.counters.add(refusal(error.raw_os_error().unwrap_or(0)), 1);
        }
        result.is_ok()
    }

    /// Peers need not wait for the silence.
    pub(super) fn say_goodbye(&mut self) {
        for peer in self.receivers(To::All) {
            self.send_message(peer, &Message::Bye);
        }
    }

    pub(super) fn send_message(&mut self, peer: PeerId, message: &Message) {
        let capacity = self.links.get(peer.index()).map_or(0, Link::smallest_capacity);
        self.send_records(peer, |out| emit_message(out, message, capacity));
    }

    fn send_frame(&mut self, peer: PeerId, frame: &[u8]) {
        let capacity = self.links.get(peer.index()).map_or(0, Link::smallest_capacity);
        if record::RECORD_HEADER_LEN + frame.len() > capacity {
            return self.counters.add(Ending::FrameOversize, 1);
        }
        self.send_records(peer, |out| record::emit(out, record::FRAME, 0, frame));
    }

    /// A probe of the path MTU: a message, filled up so that the datagram has the size that is in question.
    pub(super) fn send_probe(&mut self, peer: PeerId, size: usize) {
        let message = Message::Probe(size as u16);
        let Some(overhead) = self.links.get(peer.index()).map(Link::overhead) else { return };
        self.send_records(peer, |out| {
            record::emit(out, record::CONTROL, 0, message.to_json().as_bytes());
            fill(out, size.saturating_sub(overhead));
        });
    }

    fn send_records(&mut self, peer: PeerId, fill: impl FnOnce(&mut Vec<u8>)) {
        let Some(link) = self.links.get(peer.index()) else { return };
        let mut records = Vec::new();
        fill(&mut records);
        if let Some(datagram) = link.datagram(&records) {
            self.send_datagram(peer, link.address(), &datagram);
        }
    }

    /// A line of the log that a peer, a guest or somebody else can cause again and again.
    pub(super) fn say(&mut self, about: About, level: Level, line: String) {
        let now_ms = self.now_ms();
        self.throttle.say(about, level, now_ms, line);
    }

    pub(super) fn send_datagram(&mut self, peer: PeerId, to: SocketAddr, datagram: &[u8]) {
        // A peer that is absent, or a path that is down, is no error: the timers see to it.
        match self.udp.send_to(datagram, self.socket_address(to)) {
            Ok(_) => self.links.get_mut(peer.index()).into_iter().for_each(Link::reachable),
            Err(error) => {
                debug!("a datagram to {to} was refused: {error}");
                self.cannot_send(peer, &error);
            }
        }
    }

    /// The address in the family of our socket: an IPv6 socket reaches IPv4 by mapped addresses.
    pub(super) fn socket_address(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.config.listen.is_ipv6() => (ip.to_ipv6_mapped(), address.port()).into(),
            _ => address,
        }
    }

    pub(super) fn remember(&mut self, direction: &'static str, peer: String, message: &Message) {
        let value = message.to_value();
        debug!("{direction} {peer}: {value}");
        if self.rpc_log.len() == RPC_LOG {
            self.rpc_log.pop_front();
            self.rpc_forgotten += 1;
        }
        let at_ms = self.now_ms();
        self.rpc_log.push_back(RpcMessage { at_ms, direction: direction.to_owned(), peer, message: value });
    }
}

pub(super) fn emit_message(out: &mut Vec<u8>, message: &Message, capacity: usize) {
    record::emit(out, record::CONTROL, 0, message.to_json().as_bytes());
    fill(out, (out.len() + record::RECORD_HEADER_LEN).next_multiple_of(MESSAGE_SIZE).min(capacity));
}

/// Brings records to `size` octets, if that is enough for the record that does it.
fn fill(out: &mut Vec<u8>, size: usize) {
    if let Some(filling) = size.checked_sub(out.len() + record::RECORD_HEADER_LEN) {
        record::emit(out, record::PAD, 0, &vec![0; filling]);
    }
}

#[cfg(test)]
mod tests {
    use ipop_dataplane::addr::{MacAddr, Vlan};
    use ipop_dataplane::datagram::record::Records;

    use super::*;
    use crate::rpc::{MacMoved, Reply, Request};

    #[test]
    fn messages_do_not_tell_by_their_length_what_they_are() {
        let [mac, asker_mac] = [MacAddr([0xfe; 6]); 2];
        let (vlan, seq) = (Vlan::customer(4094), 4095);
        let target = "fd00:1111:2222:3333:4444:5555:6666:7777".parse().unwrap();
        // A tagged neighbour advertisement.
        let frame = || Some(vec![0; 14 + 4 + 40 + 32].into());
        let reply = Reply {
            target,
            mac,
            uid: "f".repeat(32),
            vlan,
            seq,
            asker_mac: Some(asker_mac),
            announcement: None,
            router: false,
            overrides: true,
            frame: frame(),
        };
        for message in [
            Message::Bye,
            Message::MacMoved(MacMoved { mac, vlan, seq: 0 }),
            Message::Request(Request { target, asker: Some(target), asker_mac, vlan, seq, frame: frame() }),
            Message::Reply(reply),
        ] {
            let mut records = Vec::new();
            emit_message(&mut records, &message, 1200);
            assert_eq!(records.len(), MESSAGE_SIZE, "{message:?}");
            let first = Records::new(&records).next().unwrap().unwrap();
            assert_eq!(Message::parse(first.body), Some(message));
            assert!(Records::new(&records).all(|record| record.is_ok()));
        }
    }

    #[test]
    fn what_is_filled_up_fits() {
        for len in 0..1300 {
            for size in [256, 512, 1200] {
                let mut records = vec![0; len];
                fill(&mut records, size);
                let expected = if len + record::RECORD_HEADER_LEN <= size { size } else { len };
                assert_eq!(records.len(), expected);
            }
        }
    }
}
