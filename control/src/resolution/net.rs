//! Gateways, segments and hosts in memory: actions of one side are what the other side hears.
//!
//! ```text
//!   c0 10.0.3.3 ── gateway 0 ── messages ── gateway 1 ── c1 10.0.3.104
//!                                  └─────── gateway 2
//! ```

use super::*;
use ipop_dataplane::addr::Vlan;
use ipop_dataplane::mac_table::MacTable;

pub(super) const EXPIRY_S: u32 = 300;
pub(super) const FRESH_S: u32 = 5;

/// Frames of stations, which speak from their own MAC.
pub(super) mod say {
    use super::*;

    pub(in super::super) fn question(target: IpAddr, asker: Option<IpAddr>, mac: MacAddr, vlan: Vlan) -> Vec<u8> {
        speech::question(target, Speaker { ip: asker, mac }, mac, vlan)
    }

    pub(in super::super) fn announcement(
        ip: IpAddr,
        mac: MacAddr,
        router: bool,
        how: Announcement,
        vlan: Vlan,
    ) -> Vec<u8> {
        let path = Path { src: mac, dst: MacAddr::BROADCAST, vlan };
        speech::announcement(ip, mac, Flags { router, overrides: true }, how, path)
    }

    pub(in super::super) fn answer(
        ip: IpAddr,
        mac: MacAddr,
        asker: Option<IpAddr>,
        asker_mac: MacAddr,
        vlan: Vlan,
    ) -> Vec<u8> {
        let path = Path { src: mac, dst: asker_mac, vlan };
        speech::answer(ip, mac, Flags::OF_ARP, Speaker { ip: asker, mac: asker_mac }, path)
    }
}

/// A station that answers for its address as hosts do, and remembers what it heard.
pub(super) struct Host {
    pub(super) gateway: usize,
    pub(super) ip: IpAddr,
    pub(super) mac: MacAddr,
    pub(super) heard: Vec<Heard>,
    pub(super) silent: bool,
}

impl Host {
    pub(super) fn answers_from(&self, owner: MacAddr) -> usize {
        self.heard.iter().filter(|heard| matches!(heard, Heard::Answer { mac, .. } if *mac == owner)).count()
    }
}

pub(super) struct Gateway {
    pub(super) resolver: Resolver,
    pub(super) macs: Macs,
}

pub(super) struct Net {
    pub(super) gateways: Vec<Gateway>,
    pub(super) hosts: Vec<Host>,
    pub(super) now_ms: u64,
    /// Messages so far: from, to, what.
    pub(super) messages: Vec<(usize, usize, Message)>,
    /// Frames that went between gateways as data.
    pub(super) data: usize,
    pub(super) up: bool,
    /// Messages under way, which arrive in the order in which they were sent.
    wire: std::collections::VecDeque<(usize, usize, Message)>,
    /// Steps that have not ended.
    depth: usize,
    /// Claims that were refused, and where.
    pub(super) refusals: Vec<(usize, Refusal)>,
}

/// An empty table of MACs.
pub(super) fn macs(limits: Limits) -> Macs {
    Macs::new(MacTable::new(64, [1, 2]).1, 300, Arc::new(Limits { mac_freeze_s: 180, ..limits }))
}

impl Net {
    pub(super) fn new(v6: bool) -> Net {
        let gateways = (0..3u8)
            .map(|i| Gateway {
                resolver: Resolver::new(
                    format!("uid-{i}"),
                    MacAddr([0xfe, 0, 0, 0, 0, i]),
                    EXPIRY_S,
                    FRESH_S,
                    Arc::new(Limits::none(3)),
                ),
                macs: macs(Limits::none(3)),
            })
            .collect();
        let host = |gateway, v4: &str, v6_text: &str, last| Host {
            gateway,
            ip: if v6 { v6_text } else { v4 }.parse().unwrap(),
            mac: MacAddr([0, 0x16, 0x3e, 0, 0, last]),
            heard: Vec::new(),
            silent: false,
        };
        let hosts = vec![
            host(0, "10.0.3.3", "fd00::3", 3),
            host(1, "10.0.3.104", "fd00::104", 104),
            host(0, "10.0.3.4", "fd00::4", 4),
            host(2, "10.0.3.5", "fd00::5", 5),
        ];
        Net {
            gateways,
            hosts,
            now_ms: 0,
            messages: Vec::new(),
            data: 0,
            up: true,
            wire: Default::default(),
            depth: 0,
            refusals: Vec::new(),
        }
    }

    pub(super) fn step<T>(&mut self, gateway: usize, run: impl FnOnce(&mut Resolver, &mut Step<'_>) -> T) -> T {
        let mut out = Vec::new();
        let peers_up = if self.up { 2 } else { 0 };
        let Gateway { resolver, macs } = &mut self.gateways[gateway];
        let result = run(resolver, &mut Step { now_ms: self.now_ms, macs, peers_up, out: &mut out });
        self.depth += 1;
        for action in out {
            self.perform(gateway, action);
        }
        self.depth -= 1;
        while self.depth == 0
            && let Some((from, to, message)) = self.wire.pop_front()
        {
            self.deliver(from, to, &message);
        }
        result
    }

    fn deliver(&mut self, from: usize, to: usize, message: &Message) {
        let parsed = Message::parse(message.to_json().as_bytes()).expect("what we send can be read");
        let from = PeerId(from as u16);
        let claimant = match &parsed {
            Message::MacQuery(MacQuery { claimant: Some(uid), .. }) => {
                uid.strip_prefix("uid-").and_then(|peer| peer.parse().ok()).map(PeerId)
            }
            _ => Some(from),
        };
        let result = self.step(to, |resolver, step| resolver.from_peer(from, &parsed, claimant, step));
        assert_eq!(result, Ok(()), "what we send is understood");
    }

    fn perform(&mut self, from: usize, action: Action) {
        match action {
            Action::Inject(frame) => self.segment(from, &frame, None),
            Action::Message(to, message) => {
                for gateway in self.receivers(from, to) {
                    // Of where MACs are, peers are told when it changes; these tests are about addresses.
                    if !matches!(message, Message::MacMoved(_) | Message::MacReleased(_) | Message::MacQuery(_)) {
                        self.messages.push((from, gateway, message.clone()));
                    }
                    self.wire.push_back((from, gateway, message.clone()));
                }
            }
            Action::MacQuery(holder, query, claimant) => {
                let claimant = claimant.map(|peer| format!("uid-{}", peer.0));
                self.perform(
                    from,
                    Action::Message(To::Peer(holder), Message::MacQuery(MacQuery { claimant, ..query })),
                );
            }
            Action::Frozen(..) => {}
            Action::Refuse(refusal) => self.refusals.push((from, refusal)),
            Action::Frame(to, frame) => {
                self.data += 1;
                for gateway in self.receivers(from, to) {
                    self.segment(gateway, &frame, None);
                }
            }
        }
    }

    fn receivers(&self, from: usize, to: To) -> Vec<usize> {
        match to {
            To::All if self.up => (0..self.gateways.len()).filter(|g| *g != from).collect(),
            To::All => vec![],
            To::Peer(peer) => vec![peer.index()],
        }
    }

    /// A frame in a segment: hosts hear it, and one that comes from a host reaches the port as a bridge would let it.
    fn segment(&mut self, gateway: usize, frame: &[u8], from_host: Option<usize>) {
        let parsed = Frame::parse(frame).unwrap();
        let heard = Heard::parse(&parsed, false).unwrap_or(Heard::Foreign);
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            if host.gateway != gateway || Some(index) == from_host || (parsed.dst != host.mac && !parsed.dst.is_group())
            {
                continue;
            }
            host.heard.push(heard);
            if let Heard::Question { target, asker, asker_mac } = heard
                && target == host.ip
                && !host.silent
            {
                let reply = say::answer(host.ip, host.mac, asker, asker_mac, parsed.vlan);
                self.segment(gateway, &reply, Some(index));
            }
        }
        let stays = |host: &Host| host.gateway == gateway && host.mac == parsed.dst;
        if from_host.is_some() && !self.hosts.iter().any(stays) {
            self.step(gateway, |resolver, step| resolver.from_port(frame, false, step)).unwrap();
        }
    }

    pub(super) fn say(&mut self, host: usize, frame: &[u8]) {
        self.segment(self.hosts[host].gateway, frame, Some(host));
    }

    pub(super) fn ask(&mut self, host: usize, target: IpAddr) {
        let h = &self.hosts[host];
        let frame = say::question(target, Some(h.ip), h.mac, Vlan::UNTAGGED);
        self.say(host, &frame);
    }

    pub(super) fn advance(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            let due = |gateway: &Gateway| gateway.resolver.next_ms().into_iter().chain(gateway.macs.next_ms()).min();
            let next = self.gateways.iter().filter_map(due).min().unwrap_or(u64::MAX);
            self.now_ms = next.clamp(self.now_ms + 1, end.min(self.now_ms + 1000));
            for gateway in 0..self.gateways.len() {
                self.step(gateway, |resolver, step| resolver.tick(step));
            }
        }
    }

    pub(super) fn answers(&self, host: usize) -> usize {
        self.hosts[host].heard.iter().filter(|h| matches!(h, Heard::Answer { .. })).count()
    }

    pub(super) fn sent(&self, name: &str) -> usize {
        self.messages.iter().filter(|(_, _, m)| m.msg_type().ends_with(name)).count()
    }

    pub(super) fn stats(&self, gateway: usize) -> ResolutionStats {
        self.gateways[gateway].resolver.stats
    }

    pub(super) fn knows(&self, gateway: usize, host: usize) -> Option<Owner> {
        let key = Key { vlan: Vlan::UNTAGGED, ip: self.hosts[host].ip };
        self.gateways[gateway].resolver.entries.get(&key).map(|e| e.owner)
    }
}

pub(super) fn both(test: impl Fn(Net)) {
    test(Net::new(false));
    test(Net::new(true));
}
