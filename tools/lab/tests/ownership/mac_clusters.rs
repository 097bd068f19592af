//! Clusters whose ARP names another MAC than the one that their frames come from (Microsoft NLB): by the rule that a
//! MAC is learned from the Ethernet source alone, frames for the shared MAC are unknown and so reach every member.

use ipop_lab::arp::{Arp, Mac};

use crate::Test;
use crate::support::{Outcome, SOON, Station, World, data, ensure};

pub(crate) const TESTS: &[Test] = &[
    Test::new("mac_a_unicast_cluster_gets_its_frames_everywhere", unicast),
    Test::new("mac_a_multicast_cluster_is_resolved_and_reached", multicast),
];

/// Everyone may hear from everyone where they are, so that what follows is unknown because of its own MAC alone.
fn introduced<const N: usize>(world: &World, names: [&str; N]) -> Result<[Station; N], libtest_mimic::Failed> {
    let mut stations = Vec::new();
    for name in names {
        stations.push(world.station(name)?);
    }
    for station in &stations {
        station.introduce()?;
    }
    for station in &mut stations {
        station.rest()?;
    }
    stations.try_into().map_err(|_| "as many stations as names".into())
}

/// NLB's unicast mode masks the source of what it sends, so that no switch ever learns the shared MAC.
fn unicast() -> Outcome {
    const SHARED: Mac = [0x02, 0xbf, 0x0a, 0x00, 0x03, 0x65];
    let world = World::new()?;
    let [mut a1, mut b1, mut b2, mut c1] = introduced(&world, ["a1", "b1", "b2", "c1"])?;
    let request = Arp::request(SHARED, [10, 0, 3, 101].into(), b1.ip);
    let request = Arp { source: a1.mac, ..request }.frame();
    a1.send(&request)?;
    b1.hear("the question with the source that it was sent with", &request)?;
    c1.hear("the question in the third segment", &request)?;
    let frame = data(SHARED, c1.mac, 1);
    c1.send(&frame)?;
    for (station, what) in [(&mut a1, "a1"), (&mut b1, "b1"), (&mut b2, "b2")] {
        station.hear(&format!("the frame to the cluster at {what}"), &frame)?;
    }
    for daemon in &world.daemons {
        let table = daemon.status("macs")?.to_string();
        ensure(!table.contains("02:bf:0a:00:03:65"), || format!("{} learned it: {table}", daemon.gateway().name()))?;
    }
    Ok(())
}

/// A unicast address at a multicast MAC: RFC 1812, 3.3.2 lets a router refuse it, but a switch has nothing to say.
fn multicast() -> Outcome {
    const GROUP: Mac = [0x03, 0xbf, 0x0a, 0x00, 0x03, 0x63];
    let world = World::new()?;
    let [mut a1, mut b1, mut b2, mut c1] = introduced(&world, ["a1", "b1", "b2", "c1"])?;
    for asker in [&mut c1, &mut a1] {
        let question = asker.request([10, 0, 3, 99].into());
        asker.send(&question.frame())?;
        let member = b1.mac;
        let reply = Arp { source: member, ..Arp::reply(GROUP, question.target_ip, asker.mac, asker.ip) };
        // The second asker may have its answer from a table; made there, its source is nobody's business.
        let answered = |frame: &[u8]| Arp::parse(frame).is_some_and(|arp| Arp { source: member, ..arp } == reply);
        let (question, reply) = (question.frame(), reply.frame());
        if b1.wait_for("the question", SOON, |frame| frame == question).is_ok() {
            b1.send(&reply)?;
        }
        asker.wait_for("the answer with the group's MAC", SOON, answered)?;
    }
    let frame = data(GROUP, c1.mac, 1);
    c1.send(&frame)?;
    for (station, what) in [(&mut a1, "a1"), (&mut b1, "b1"), (&mut b2, "b2")] {
        station.hear(&format!("the frame to the group at {what}"), &frame)?;
    }
    ensure(world.total("/drops/arp_malformed")? == 0, || "the answer counts as malformed".into())
}
