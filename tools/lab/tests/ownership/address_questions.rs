//! Questions for addresses that are not there yet, and questions in great number: paced, but neither forgotten nor
//! taken for something else.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipop_lab::arp::{Arp, Operation};
use ipop_lab::interrupt;

use crate::Test;
use crate::probe::{Pings, reached};
use crate::support::{Outcome, Station, World, ensure, ip, show, take};

pub(crate) const TESTS: &[Test] = &[
    Test::new("address_that_was_absent_for_long_is_found_when_it_comes", absent),
    Test::new("address_of_a_guest_that_comes_back_sees_no_conflict", conflict),
    Test::new("address_scan_finds_every_living_host", scan).needs(&["arp-scan"]),
];

/// A host that is asked for before it boots. A kernel asks once a second, so half of the limit is the asker's own.
fn absent() -> Outcome {
    let world = World::new()?;
    let [a1, b1] = world.guests(["a1", "b1"])?;
    let absent = Ipv4Addr::new(10, 0, 3, 77);
    let pings = Pings::start(&a1, absent, Duration::from_secs(1), Duration::from_secs(15))?.end()?;
    ensure(pings.lost() == 15, || format!("somebody is there: {pings}"))?;
    take(&b1, absent)?;
    reached(&a1, absent, Instant::now(), Duration::from_millis(1500)).map(drop)
}

/// b1 goes, others ask for its address, and b1 comes back and looks whether it is free (RFC 5227, 2.1.1): it gives the
/// address up if it hears a claim to it, or a probe for it from anyone else. Nobody may look for b1 in such a way.
fn conflict() -> Outcome {
    let world = World::new()?;
    let [a1, b1, b2, b3] = world.guests(["a1", "b1", "b2", "b3"])?;
    for guest in [&a1, &b2] {
        guest.ping("10.0.3.21", 1)?;
    }
    let mac = b1.mac().to_owned();
    drop(b1);
    let every = Duration::from_millis(250);
    let pings = [
        Pings::start(&b2, ip("b1"), every, Duration::from_secs(6))?,
        Pings::start(&b3, ip("b1"), every, Duration::from_secs(6))?,
    ];
    interrupt::sleep(Duration::from_secs(1))?;
    let back = world.lab.container_builder(1, "back").mac(&mac).start()?;
    let mut back = Station::of(back, 21)?;
    let begin = Instant::now();
    for number in 0..4 {
        back.send(&Arp::request(back.mac, Ipv4Addr::UNSPECIFIED, back.ip).frame())?;
        let end = begin + Duration::from_secs(number + 1);
        while let Some(frame) = back.port.recv(end.saturating_duration_since(Instant::now()))? {
            let Some(arp) = Arp::parse(&frame) else { continue };
            let claim = arp.sender_ip == back.ip;
            let probe = arp.operation == Operation::Request
                && arp.sender_ip.is_unspecified()
                && arp.target_ip == back.ip
                && arp.sender_mac != back.mac;
            ensure(!claim && !probe, || format!("after {:?} it heard {}", begin.elapsed(), show(&frame)))?;
        }
    }
    for pings in pings {
        pings.end()?;
    }
    Ok(())
}

/// 800 questions per second by the program that people use for it, for 1024 addresses of which four are there.
fn scan() -> Outcome {
    let world = World::new()?;
    let [a1, _b1, _b2, _c1, c2] = world.guests(["a1", "b1", "b2", "c1", "c2"])?;
    let pause = "--interval=1250u";
    let output = a1.exec(["arp-scan", "--interface=eth0", pause, "--plain", "10.0.0.0/22"])?.into_stdout()?;
    let living = ["10.0.3.21", "10.0.3.22", "10.0.3.31", "10.0.3.32"];
    let found = |host: &&str| output.lines().any(|line| line.split_whitespace().next() == Some(host));
    let found: Vec<_> = living.into_iter().filter(found).collect();
    println!("arp-scan found {found:?}");
    drop(c2);
    ensure(found == living, || format!("arp-scan found {found:?}: {output}"))
}
