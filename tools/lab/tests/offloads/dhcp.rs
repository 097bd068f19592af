//! A real DHCP server, which reads a packet socket and takes one request from each frame.
//!
//! ```text
//!   c0: relay of a network that has just woken up ==== gw-a, gw-b ==== c1: Kea
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use ipop_lab::{interrupt, udp_socket};
use libtest_mimic::Failed;
use serde_json::json;

use crate::kit::{HERE, Outcome, SOON, Scene, THERE, ensure};

/// Requests that come at once, and how often.
const BURST: u32 = 20;
const BURSTS: u32 = 50;

/// BOOTREQUEST with a DHCPDISCOVER, from a relay (RFC 2131, section 2; RFC 2132, section 9.6).
fn discover(number: u32, relay: [u8; 4]) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 1];
    message.extend(number.to_be_bytes());
    message.extend([0; 16]);
    message.extend(relay);
    message.extend([2, 0]);
    message.extend(number.to_be_bytes());
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    message.resize(300, 0);
    message
}

/// The number of an offer.
fn offered(message: &[u8]) -> Option<u32> {
    let is_offer = message.first() == Some(&2) && message.get(240..243) == Some(&[53, 1, 2]);
    is_offer.then(|| message.get(4..8)?.try_into().ok().map(u32::from_be_bytes))?
}

/// Sends requests in one go, and waits for the answers: how many came.
fn ask(relay: &UdpSocket, server: SocketAddr, numbers: std::ops::Range<u32>) -> Result<usize, Failed> {
    let address: std::net::Ipv4Addr = HERE.parse()?;
    let requests: Vec<_> = numbers.clone().map(|number| discover(number, address.octets())).collect();
    for request in &requests {
        relay.send_to(request, server)?;
    }
    let mut open: std::collections::HashSet<u32> = numbers.collect();
    let end = Instant::now() + SOON;
    let mut answer = [0; 2048];
    while !open.is_empty() && Instant::now() < end {
        match relay.recv(&mut answer) {
            Ok(len) => {
                offered(&answer[..len]).map(|number| open.remove(&number));
            }
            Err(_) => interrupt::check()?,
        }
    }
    Ok(requests.len() - open.len())
}

pub(crate) fn kea() -> Outcome {
    let scene = Scene::start(|_, _| {})?;
    let (c0, c1) = scene.pair()?;
    let directory = scene.lab.lab_run().dir().to_owned();
    let config = directory.join("kea.json");
    let output = json!([{ "output": "stderr" }]);
    let settings = json!({ "Dhcp4": {
        "interfaces-config": { "interfaces": [c1.interface()], "dhcp-socket-type": "raw" },
        "lease-database": { "type": "memfile", "persist": false },
        "valid-lifetime": 600,
        "subnet4": [{ "subnet": "10.0.0.0/16", "pools": [{ "pool": "10.0.16.0-10.0.255.254" }] }],
        "loggers": [{ "name": "kea-dhcp4", "severity": "INFO", "output_options": output }],
    }});
    std::fs::write(&config, settings.to_string())?;
    let mut words = vec!["env".to_owned()];
    for name in ["KEA_PIDFILE_DIR", "KEA_LOCKFILE_DIR"] {
        words.push(format!("{name}={}", directory.display()));
    }
    words.extend(["kea-dhcp4".to_owned(), "-c".to_owned(), config.display().to_string()]);
    let mut kea = c1.spawn(words)?;
    let relay = udp_socket(c0.netns(), format!("{HERE}:67").parse()?, std::time::Duration::from_millis(200))?;
    let server: SocketAddr = format!("{THERE}:67").parse()?;
    let ready = interrupt::wait_until("Kea to answer", SOON * 3, || {
        if kea.ended()?.is_some() {
            kea.drain();
            return Err(ipop_lab::Error::other(format!("kea-dhcp4 ended: {}", kea.stderr())));
        }
        let first = discover(u32::MAX, [10, 0, 3, 3]);
        let mut answer = [0; 2048];
        let _ = relay.send_to(&first, server);
        Ok(relay.recv(&mut answer).ok())
    });
    ready?;
    for burst in 0..BURSTS {
        let answered = ask(&relay, server, burst * BURST..(burst + 1) * BURST)?;
        ensure(answered == BURST as usize, || format!("burst {burst}: {answered} of {BURST} requests were answered"))?;
    }
    Ok(())
}
