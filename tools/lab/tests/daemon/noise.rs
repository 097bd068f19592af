//! Handshakes and sealed datagrams against an implementation that shares no code with the product: `noise_peer.py`.

use std::path::Path;
use std::time::{Duration, Instant};

use ipop_control::keys::{PresharedKey, PrivateKey};
use ipop_lab::{Cmd, RawPort};

use super::kit::{Outcome, Pair, ensure, says, with_logs};

/// IEEE's EtherType for local experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const STATION: [u8; 6] = [0x02, 0, 0, 0, 0x77, 0x01];

/// Whether the program can run here.
pub(crate) fn available() -> Result<(), String> {
    ipop_lab::trials::program_available("python3", "python3")?;
    let output = Cmd::new(["python3", "-c", "import cryptography"]).output().map_err(|error| error.to_string())?;
    if output.success() { Ok(()) } else { Err("python3 has no `cryptography` (package python3-cryptography)".into()) }
}

/// The program opens the session, or gw-a does; without AES at one end both take the other cipher.
pub(crate) fn against_another_implementation() -> Outcome {
    let pair = Pair::new()?;
    let preshared = pair.lab.lab_run().dir().join("preshared");
    PresharedKey::generate()?.create(&preshared)?;
    for role in ["initiator", "responder"] {
        for (secret, aes) in [(None, true), (Some(preshared.as_path()), true), (None, false)] {
            session(&pair, role, secret, aes)?;
        }
    }
    Ok(())
}

fn session(pair: &Pair, role: &str, preshared: Option<&Path>, aes: bool) -> Outcome {
    let secret = preshared.map_or("without a preshared key", |_| "with a preshared key");
    let what = format!("as {role}, {secret}, {} AES", if aes { "with" } else { "without" });
    let (own, theirs) = (pair.gateway(0).config(), pair.gateway(1).config());
    let mut config = own.clone();
    if let Some(path) = preshared {
        config["peers"][0]["preshared_key_file"] = path.display().to_string().into();
    }
    let a = pair.gateway(0).start_ipop(&config)?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let station = pair.c0.mac_bytes()?;
    let there = [&station[..], &STATION, &ETHERTYPE, &[0x11; 60]].concat();
    let back = [&STATION[..], &station, &ETHERTYPE, &[0x22; 60]].concat();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/noise_peer.py");
    let address = |index: usize| pair.gateway(index).underlay_ip().to_string();
    let public = PrivateKey::load(text(&own["private_key_file"]).as_ref())?.public().to_string();
    let mut words = vec!["python3".to_owned(), program.to_owned(), role.to_owned()];
    for (name, value) in [
        ("--key", text(&theirs["private_key_file"])),
        ("--peer-key", public),
        ("--listen", address(1)),
        ("--address", address(0)),
        ("--send", hex(&there)),
        ("--expect", hex(&back)),
    ] {
        words.extend([name.to_owned(), value]);
    }
    words.extend(preshared.iter().flat_map(|path| ["--preshared".to_owned(), path.display().to_string()]));
    if !aes {
        words.push("--without-aes".to_owned());
    }
    let mut guest = RawPort::open(pair.c0.netns(), pair.c0.interface())?;
    let mut process = pair.gateway(1).spawn(words)?;
    let end = Instant::now() + Duration::from_secs(17);
    let (mut arrived, mut cipher) = (false, String::new());
    while process.ended()?.is_none() && Instant::now() < end {
        while let Some(frame) = guest.recv(Duration::from_millis(100))? {
            arrived |= frame == there;
        }
        if arrived {
            cipher = text(&a.status("peers")?["peers"][0]["cipher"]);
            guest.send(&back)?;
        }
    }
    let output = process.wait(Duration::from_secs(1))?;
    let report = format!("{what}: {}: {}{}", output.status, output.stdout, output.stderr);
    with_logs(ensure(output.success() && arrived, report), &[&a])?;
    ensure(output.stdout.trim() == cipher, format!("{what}: {cipher} here, {} there", output.stdout))?;
    ensure(aes || cipher == "ChaCha20-Poly1305", format!("{what}: {cipher}"))?;
    says(&what, &a.log(), &["peer gw-b is up: 10.99.0.2:5800", "calls itself 'noise_peer'", &cipher])?;
    ensure(a.stop()?.success(), format!("{what}: gw-a ended badly"))
}
