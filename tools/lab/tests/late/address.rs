//! The address of `listen`.

use ipop_lab::{Family, Lab, UPLINK, interrupt};

use crate::Test;
use crate::support::{Outcome, SOON, World, ensure, logged};

pub(crate) const TESTS: &[Test] = &[
    ("an_address_may_come_late", late_v4),
    ("an_ipv6_address_may_come_late", late_v6),
    ("an_address_goes_and_comes_back", back),
    ("an_address_goes_and_comes_back_on_system_calls", back_on_calls),
];

fn late_v4() -> Outcome {
    late(Family::V4, "24")
}

fn late_v6() -> Outcome {
    late(Family::V6, "64")
}

/// As at boot, when the network is not there yet.
fn late(family: Family, length: &str) -> Outcome {
    let world = World::new(&Lab::builder().family(family))?;
    let gateway = world.gateway(0);
    let address = format!("{}/{length}", gateway.underlay_ip());
    gateway.netns().ip(&format!("address del {address} dev {UPLINK}"))?;
    let [a, _b] = world.start(|_, _| {})?;
    logged(&a, &["no interface of this host has the address", "waiting"])?;
    ensure(a.status("status")?["address_missing"] == true, || "the status does not say so".into())?;
    ensure(a.query("status", false).run()?.contains("NO INTERFACE HAS THIS ADDRESS"), || "nor does its text".into())?;
    world.no_traffic("without an address")?;
    // With duplicate address detection for IPv6, as at boot.
    gateway.netns().ip(&format!("address add {address} dev {UPLINK}"))?;
    world.traffic("with the address")?;
    logged(&a, &["this host has the address", "now"])?;
    ensure(a.status("status")?["address_missing"] == false, || "the status still misses it".into())
}

fn back() -> Outcome {
    comes_back(true)
}

fn back_on_calls() -> Outcome {
    comes_back(false)
}

/// As with DHCP, or when somebody sets up the network anew.
fn comes_back(io_uring: bool) -> Outcome {
    let world = World::new(&Lab::builder())?;
    let [mut a, b] = world.start(|_, config| {
        config["io_uring"] = io_uring.into();
        config["workers"] = 2.into();
    })?;
    world.traffic("at first")?;
    let gateway = world.gateway(0);
    let address = format!("{}/24", gateway.underlay_ip());
    for round in 0..2 {
        gateway.netns().ip(&format!("address del {address} dev {UPLINK}"))?;
        interrupt::wait_until("the loss to be noticed", SOON, || {
            Ok((a.status("status")?["address_missing"] == true).then_some(()))
        })?;
        world.no_traffic("without an address")?;
        if round == 1 {
            // For long enough that the peer gives it up.
            interrupt::wait_until("gw-a to be down", SOON * 2, || {
                Ok((b.status("peers")?["peers"][0]["state"] == "down").then_some(()))
            })?;
        }
        gateway.netns().ip(&format!("address add {address} dev {UPLINK}"))?;
        world.traffic("when the address is back")?;
    }
    ensure(a.is_running(), || "it ended".into())
}
