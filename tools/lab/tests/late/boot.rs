//! A machine that boots before its network is there, with the unit for systemd, installed as the README says.

use std::fs;
use std::path::Path;

use ipop_lab::{BRIDGE, Lab, UPLINK, interrupt, ipop_binary};
use libtest_mimic::Failed;

use crate::Test;
use crate::machine::Machine;
use crate::port::make_bridge;
use crate::support::{Outcome, SOON, World, ensure};

pub(crate) const TESTS: &[Test] = &[
    ("the_unit_waits_at_boot_for_address_and_bridge", waits_at_boot),
    ("the_unit_gives_up_what_a_person_must_mend", gives_up),
];

/// The README's blocks of code in this language.
fn blocks(language: &str) -> Result<Vec<String>, Failed> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md"))?;
    let fence = format!("```{language}\n");
    let blocks = readme.split(&fence).skip(1).filter_map(|rest| rest.split_once("```"));
    Ok(blocks.map(|(block, _)| block.to_owned()).collect())
}

/// The first of them that has this in it.
fn block(language: &str, part: &str) -> Result<String, Failed> {
    let found = blocks(language)?.into_iter().find(|block| block.contains(part));
    found.ok_or_else(|| format!("the README has no {language} block with \"{part}\"").into())
}

/// What the README says, word by word; it gives the addresses that the lab has. The program is built already, and `peer` is the
/// public key of the other gateway. Returns the public key of this one.
fn install(machine: &Machine, peer: &str) -> Result<String, Failed> {
    for line in block("sh", "install target/release/ipop")?.lines().filter(|line| !line.starts_with("cargo ")) {
        machine.shell(line)?;
    }
    let keys = block("sh", "ipop keygen")?;
    let printed = machine.shell(&keys)?;
    let mut printed = printed.lines();
    let (made, again) = (printed.next().unwrap_or_default().to_owned(), printed.next());
    ensure(Some(made.as_str()) == again && !made.is_empty(), || format!("two keys: {made}, {again:?}"))?;
    let config = block("json", "\"switchmode\"")?.replace("what ipop keygen printed on B", peer);
    machine.write("/etc/ipop/config.json", &config)?;
    machine.run(["ipop", "check", "--config", "/etc/ipop/config.json"])?;
    Ok(made)
}

fn enable(machine: &Machine) -> Outcome {
    machine.shell(&block("sh", "systemctl enable --now ipop")?).map(drop)
}

/// The public key of gw-b, which is as any gateway of the lab.
fn key_of_peer(world: &World) -> Result<String, Failed> {
    let file = world.gateway(1).config()["private_key_file"].as_str().unwrap_or_default().to_owned();
    let printed = ipop_lab::Cmd::new([&ipop_binary()?.display().to_string(), "pubkey", &file]).run()?;
    Ok(printed.trim().to_owned())
}

fn waits_at_boot() -> Outcome {
    let world = World::new(&Lab::builder())?;
    let (a, b) = (world.gateway(0), world.gateway(1));
    // Nothing is there.
    let address = format!("{}/24", a.underlay_ip());
    a.netns().ip(&format!("address del {address} dev {UPLINK}"))?;
    a.netns().ip(&format!("link del {BRIDGE}"))?;
    let run = world.lab.lab_run();
    let machine = Machine::boot(run, a.netns())?;
    machine.wait_booted()?;
    let key = install(&machine, &key_of_peer(&world)?)?;
    // Comes back at once: what is missing holds nobody up.
    enable(&machine)?;
    machine.wait_status(&["active (running)", "waiting: there is no bridge 'lxcbr0'", "with the address 10.99.0.1"])?;
    drop(machine);

    // The same at boot.
    let machine = Machine::boot(run, a.netns())?;
    machine.wait_booted()?;
    let waits =
        ["active (running)", "waiting: there is no bridge 'lxcbr0'", "with the address 10.99.0.1", "0 of 1 peers up"];
    machine.wait_status(&waits)?;
    let status = machine.run(["ipop", "status"])?;
    ensure(status.contains("waiting     there is no bridge 'lxcbr0'"), || status.clone())?;
    ensure(status.contains("user ipop, capabilities NET_ADMIN"), || status.clone())?;
    let pid = machine.property("MainPID")?;

    let mut config = b.config();
    config["peers"][0]["public_key"] = key.into();
    let _b = b.start_ipop(&config)?;
    world.no_traffic("before address and bridge are there")?;
    make_bridge(&world)?;
    a.netns().ip(&format!("address add {address} dev {UPLINK}"))?;
    world.traffic("with address and bridge")?;
    machine.wait_status(&["active (running)", "Status: \"1 of 1 peers up\""])?;
    // It was neither ended nor started again.
    for (name, value) in [("NRestarts", "0"), ("MainPID", pid.as_str()), ("Result", "success")] {
        let found = machine.property(name)?;
        ensure(found == value, || format!("{name} is {found}, not {value}"))?;
    }
    // Deleted under a unit that confines it further, the port comes back as well.
    a.netns().ip(&format!("link del {}", ipop_lab::TAP))?;
    world.traffic("with a port that was made anew")?;
    ensure(machine.property("MainPID")? == pid, || "it was started again".into())?;
    // The user's group may ask.
    let ask = "setpriv --reuid=12345 --regid=12345 --groups=ipop ipop peers";
    ensure(machine.shell(ask)?.contains("gw-b"), || "the group is told nothing".into())?;

    machine.run(["systemctl", "stop", "ipop"])?;
    let ended = [machine.property("ActiveState")?, machine.property("Result")?];
    ensure(ended == ["inactive", "success"], || format!("it ended as {ended:?}"))
}

/// What could never start is not tried for ever, and whoever starts it is told.
fn gives_up() -> Outcome {
    let world = World::new(&Lab::builder())?;
    let a = world.gateway(0);
    let machine = Machine::boot(world.lab.lab_run(), a.netns())?;
    machine.wait_booted()?;
    install(&machine, &key_of_peer(&world)?)?;
    machine.shell("sed -i s/switchmode/swichmode/ /etc/ipop/config.json")?;
    let Err(error) = enable(&machine) else { return Err("it is said to have started".into()) };
    let message = error.message().unwrap_or_default().to_owned();
    ensure(message.contains("ipop.service failed"), || message.clone())?;
    interrupt::wait_until("systemd to give it up", SOON * 3, || {
        let state = machine.property("ActiveState").unwrap_or_default();
        Ok((state == "failed").then_some(()))
    })?;
    let log = machine.shell("journalctl --no-pager -u ipop -o cat")?;
    ensure(log.contains("\"swichmode\""), || log.clone())
}
