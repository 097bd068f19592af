//! The hostile peer: a process on gw-c that has gw-c's key, and takes orders.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ipop_lab::arp::{Mac, format_mac};
use ipop_lab::{Cmd, Lab, Process, interrupt};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::kit::Outcome;

/// An order is carried out at once; a flood takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The place of the peer among the lab's gateways.
const PLACE: usize = 2;

/// Whether the program can run here.
pub(crate) fn available() -> Result<(), String> {
    ipop_lab::trials::program_available("python3", "python3")?;
    let output = Cmd::new(["python3", "-c", "import cryptography"]).output().map_err(|error| error.to_string())?;
    if output.success() { Ok(()) } else { Err("python3 has no `cryptography` (package python3-cryptography)".into()) }
}

/// A running `peer.py`. Dropping it ends it without a goodbye.
pub(crate) struct Peer {
    orders: UnixStream,
    answers: BufReader<UnixStream>,
    process: Process,
}

impl Peer {
    /// On gw-c, for the other gateways to open their sessions with.
    pub(crate) fn start(lab: &Lab) -> Result<Peer, Failed> {
        let gateway = lab.gateway(PLACE);
        let config = gateway.config();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let socket = lab.lab_run().dir().join("orders.sock");
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/peer.py");
        let mut words = vec!["python3".to_owned(), program.to_owned()];
        for (name, value) in [
            ("--key", text(&config["private_key_file"])),
            ("--listen", gateway.underlay_ip().to_string()),
            ("--orders", socket.display().to_string()),
        ] {
            words.extend([name.to_owned(), value]);
        }
        for peer in config["peers"].as_array().into_iter().flatten() {
            let address = text(&peer["address"]);
            let address = address.rsplit_once(':').map_or("", |(ip, _port)| ip).to_owned();
            words.extend(["--gateway".to_owned(), text(&peer["name"]), address, text(&peer["public_key"])]);
        }
        let mut process = gateway.spawn(words)?;
        let orders = interrupt::wait_until("peer.py to take orders", Duration::from_secs(10), || {
            if process.ended()?.is_some() {
                process.drain();
                return Err(ipop_lab::Error::other(format!("peer.py ended: {}", process.stderr())));
            }
            Ok(UnixStream::connect(&socket).ok())
        })?;
        orders.set_read_timeout(Some(PATIENCE))?;
        Ok(Peer { answers: BufReader::new(orders.try_clone()?), orders, process })
    }

    /// Gives an order, and does not wait until it is carried out.
    fn order(&mut self, order: &Value) -> Outcome {
        Ok(self.orders.write_all(format!("{order}\n").as_bytes())?)
    }

    /// What became of the oldest order that has not been answered.
    pub(crate) fn answer(&mut self) -> Result<Value, Failed> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            self.process.drain();
            return Err(format!("peer.py ended: {}", self.process.stderr()).into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn obeyed(&mut self, order: &Value) -> Result<Value, Failed> {
        self.order(order)?;
        self.answer()
    }

    /// Sends a message to a gateway.
    pub(crate) fn say(&mut self, to: &str, message: &Value) -> Outcome {
        self.obeyed(&json!({"do": "say", "to": to, "message": message})).map(drop)
    }

    /// Sends a frame to a gateway.
    pub(crate) fn frame(&mut self, to: &str, frame: &[u8]) -> Outcome {
        let hex: String = frame.iter().map(|octet| format!("{octet:02x}")).collect();
        self.obeyed(&json!({"do": "frame", "to": to, "frame": hex})).map(drop)
    }

    /// Says goodbye to a gateway, which then opens another session.
    pub(crate) fn part(&mut self, from: &str) -> Outcome {
        self.obeyed(&json!({"do": "part", "to": from})).map(drop)
    }

    /// Sends a message again and again, so many times per second, in turn from as many ports. [`Peer::answer`] tells
    /// when it is over.
    pub(crate) fn flood(&mut self, to: &str, message: &Value, rate: u32, seconds: u32, ports: u32) -> Outcome {
        self.order(&json!({
            "do": "flood", "to": to, "message": message, "rate": rate, "seconds": seconds, "ports": ports,
        }))
    }

    /// How many frames for this MAC have come from all gateways.
    pub(crate) fn frames_for(&mut self, mac: Mac) -> Result<u64, Failed> {
        let report = self.obeyed(&json!({"do": "report"}))?;
        let links = report.as_object().ok_or("the report is no object")?;
        Ok(links.values().filter_map(|link| link["frames"][format_mac(mac)].as_u64()).sum())
    }
}
