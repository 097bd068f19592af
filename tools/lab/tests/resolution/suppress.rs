//! Case by case against the Linux bridge's own ARP and ND suppression.
//!
//! The reference is a bridge with a VXLAN port on which `neigh_suppress` is on, with neighbours and FDB entered by hand,
//! as an EVPN daemon would. For every stimulus two things are compared: does the asker's segment hear an answer although
//! every station is silent, and does the far segment hear the stimulus?

use std::net::{Ipv4Addr, Ipv6Addr};

use ipop_lab::arp::{self, Arp, Mac, Operation};
use ipop_lab::ndp::{ALL_NODES, OVERRIDE, advertisement, check, group_mac, solicitation};
use ipop_lab::{BRIDGE, Lab};
use libtest_mimic::Failed;

use super::kit::{Outcome, Station, World, ensure};

const ASKER6: Ipv6Addr = Ipv6Addr::new(0xfd03, 0, 0, 0, 0, 0, 0, 3);
const TARGET6: Ipv6Addr = Ipv6Addr::new(0xfd03, 0, 0, 0, 0, 0, 0, 0x104);
const UNKNOWN6: Ipv6Addr = Ipv6Addr::new(0xfd03, 0, 0, 0, 0, 0, 0, 0x250);

/// What the two segments hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// An answer comes, and the stimulus stays here.
    Answered,
    /// No answer, and the stimulus is heard in the far segment.
    Passed,
    /// Neither.
    Nothing,
    /// An answer comes, and the stimulus is heard over there as well.
    Both,
}

struct Case {
    name: &'static str,
    frame: fn(&Scene) -> Vec<u8>,
    kernel: &'static [Heard],
    ipop: Heard,
    /// Why, where the two differ.
    because: &'static str,
}

/// Who is there, and silent.
struct Scene {
    asker: Station,
    target: Station,
}

const CASES: &[Case] = &[
    Case {
        name: "request, target known",
        frame: |s| s.asker.request(s.target.ip).frame(),
        kernel: &[Heard::Answered],
        ipop: Heard::Answered,
        because: "",
    },
    Case {
        name: "request, target unknown",
        frame: |s| s.asker.request(Ipv4Addr::new(10, 0, 3, 250)).frame(),
        kernel: &[Heard::Passed],
        ipop: Heard::Passed,
        because: "",
    },
    Case {
        name: "request to one station",
        frame: |s| Arp { destination: s.target.mac, ..s.asker.request(s.target.ip) }.frame(),
        // Kernels before 6.14 answered it as if it were a broadcast.
        kernel: &[Heard::Passed, Heard::Answered],
        ipop: Heard::Passed,
        because: "a liveness check is for the owner; the kernel thinks so too since 6.14",
    },
    Case {
        name: "probe for a known address",
        frame: |s| s.asker.probe(s.target.ip).frame(),
        kernel: &[Heard::Nothing],
        ipop: Heard::Passed,
        because: "without it two hosts on two gateways could take one address; EVPN has other means to find out",
    },
    Case {
        name: "gratuitous request",
        frame: |s| arp::gratuitous(s.asker.mac, s.asker.ip),
        kernel: &[Heard::Nothing],
        ipop: Heard::Passed,
        because: "hosts over there must correct their caches at a failover; EVPN announces by BGP",
    },
    Case {
        name: "gratuitous reply",
        frame: |s| {
            let reply = Arp::reply(s.asker.mac, s.asker.ip, arp::BROADCAST, s.asker.ip);
            Arp { operation: Operation::Reply, ..reply }.frame()
        },
        kernel: &[Heard::Nothing],
        ipop: Heard::Passed,
        because: "as the gratuitous request",
    },
    Case {
        name: "request for the asker's own other address",
        frame: |s| Arp::request(s.asker.mac, Ipv4Addr::new(10, 0, 3, 5), s.asker.ip).frame(),
        kernel: &[Heard::Nothing],
        ipop: Heard::Passed,
        because: "that a host asks for its own address means that it has lost it, so whoever has it now is asked",
    },
    Case {
        name: "solicitation, target known",
        frame: |s| solicitation(s.asker.mac, ASKER6, TARGET6),
        kernel: &[Heard::Answered],
        ipop: Heard::Answered,
        because: "",
    },
    Case {
        name: "solicitation, target unknown",
        frame: |s| solicitation(s.asker.mac, ASKER6, UNKNOWN6),
        kernel: &[Heard::Passed],
        ipop: Heard::Passed,
        because: "",
    },
    Case {
        name: "duplicate address detection",
        frame: |s| solicitation(s.asker.mac, Ipv6Addr::UNSPECIFIED, TARGET6),
        kernel: &[Heard::Nothing],
        ipop: Heard::Passed,
        because: "as the probe",
    },
    Case {
        name: "solicitation to one station",
        frame: |s| check(s.asker.mac, ASKER6, s.target.mac, TARGET6),
        kernel: &[Heard::Passed, Heard::Answered],
        ipop: Heard::Passed,
        because: "as the request to one station",
    },
    Case {
        name: "unsolicited advertisement",
        frame: |s| advertisement(s.asker.mac, ASKER6, group_mac(ALL_NODES), ALL_NODES, OVERRIDE),
        kernel: &[Heard::Nothing],
        ipop: Heard::Passed,
        because: "as the gratuitous request",
    },
];

impl Scene {
    fn new(lab: &Lab) -> Result<Scene, Failed> {
        Ok(Scene {
            asker: Station::new(lab, 0, "asker", "10.0.3.3")?,
            target: Station::new(lab, 1, "target", "10.0.3.104")?,
        })
    }

    fn try_one(&mut self, case: &Case) -> Result<Heard, Failed> {
        let frame = (case.frame)(self);
        self.asker.drain()?;
        self.target.drain()?;
        self.asker.send(&frame)?;
        // Retries are the same frame again, and the bridge's own IPv6 chatter is not an answer.
        let to: Mac = self.asker.mac;
        let passed = self.target.rest()?.contains(&frame);
        let answered = self.asker.rest()?.iter().any(|heard| heard[..6] == to);
        Ok(match (answered, passed) {
            (true, false) => Heard::Answered,
            (false, true) => Heard::Passed,
            (false, false) => Heard::Nothing,
            (true, true) => Heard::Both,
        })
    }
}

/// Runs all cases on both and compares with the table.
pub(crate) fn comparison() -> Outcome {
    let mut wrong = Vec::new();
    let kernel = kernel()?;
    let ipop = ipop()?;
    for ((case, kernel), ipop) in CASES.iter().zip(kernel).zip(ipop) {
        if !case.kernel.contains(&kernel) {
            wrong.push(format!("{}: the kernel {kernel:?}, not {:?}", case.name, case.kernel));
        }
        if ipop != case.ipop {
            wrong.push(format!("{}: ipop {ipop:?}, not {:?} ({})", case.name, case.ipop, case.because));
        }
    }
    for case in CASES {
        let explained = case.kernel[0] == case.ipop || !case.because.is_empty();
        ensure(explained, format!("{}: nobody says why ipop differs", case.name))?;
    }
    ensure(wrong.is_empty(), wrong.join("\n"))
}

fn kernel() -> Result<Vec<Heard>, Failed> {
    let lab = Lab::builder().underlay_mtu(1600).build()?;
    lab.join_by_vxlan()?;
    let mut scene = Scene::new(&lab)?;
    let (asker, target) = (arp::format_mac(scene.asker.mac), arp::format_mac(scene.target.mac));
    let gateway = lab.gateway(0);
    let far = lab.gateway(1).underlay_ip();
    for line in [
        // Static, in the bridge and in the tunnel, as an EVPN daemon does.
        format!("bridge fdb replace {target} dev vxlan0 master static"),
        format!("bridge fdb replace {target} dev vxlan0 dst {far} self static"),
        format!("ip neigh replace 10.0.3.104 lladdr {target} dev {BRIDGE} nud permanent"),
        format!("ip -6 neigh replace {TARGET6} lladdr {target} dev {BRIDGE} nud permanent"),
        format!("ip neigh replace 10.0.3.3 lladdr {asker} dev {BRIDGE} nud permanent"),
        format!("ip -6 neigh replace {ASKER6} lladdr {asker} dev {BRIDGE} nud permanent"),
        "bridge link set dev vxlan0 neigh_suppress on learning off".to_owned(),
    ] {
        gateway.run(line.split_whitespace())?;
    }
    // The bridge must know where the asker is.
    scene.asker.send(&arp::gratuitous(scene.asker.mac, scene.asker.ip))?;
    scene.asker.rest()?;
    CASES.iter().map(|case| scene.try_one(case)).collect()
}

fn ipop() -> Result<Vec<Heard>, Failed> {
    let world = World::new(2, 300)?;
    let mut scene = Scene::new(&world.lab)?;
    for station in [&scene.asker, &scene.target] {
        station.send(&arp::gratuitous(station.mac, station.ip))?;
    }
    for (station, ip) in [(&scene.asker, ASKER6), (&scene.target, TARGET6)] {
        station.send(&advertisement(station.mac, ip, group_mac(ALL_NODES), ALL_NODES, OVERRIDE))?;
    }
    world.await_belief("10.0.3.104", scene.target.mac, 1)?;
    world.await_belief(&TARGET6.to_string(), scene.target.mac, 1)?;
    world.await_belief(&ASKER6.to_string(), scene.asker.mac, 0)?;
    // What has only been announced is asked of everybody once, so that whoever knows better can say so.
    scene.asker.send(&scene.asker.request(scene.target.ip).frame())?;
    scene.asker.send(&solicitation(scene.asker.mac, ASKER6, TARGET6))?;
    world.await_count(0, "arp/unanswered", 2)?;
    CASES.iter().map(|case| scene.try_one(case)).collect()
}
