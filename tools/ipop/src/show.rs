//! The reports of a gateway as tables for people.

use std::collections::BTreeMap;

use ipop_control::report::{
    Arp, Confinement, Feature, Macs, Peers, PortKind, PortStatus, Rekey, Released, Rpc, Status, WorkerStatus,
    drop_reason, refusal_reason,
};

/// `ipop status`.
pub(crate) fn status(s: &Status) -> String {
    let mut out = String::new();
    let mut line = |key: &str, value: String| out.push_str(&format!("{key:<12}{value}\n"));
    line("gateway", format!("{} (ipop {}, process {}, up {})", s.name, s.version, s.pid, duration(s.uptime_s)));
    line("uid", s.uid.clone());
    let security = if s.sec { "encrypted" } else { "NONE: \"sec\" is false, frames travel in clear text" };
    line("security", security.to_owned());
    line("port", port(&s.port));
    let sources: Vec<String> = s.workers.iter().flat_map(|w| w.ports.iter().skip(1)).map(u16::to_string).collect();
    let sources = if sources.is_empty() { String::new() } else { format!("; sends from {} too", sources.join(", ")) };
    let missing = if s.address_missing { " (NO INTERFACE HAS THIS ADDRESS)" } else { "" };
    line("listen", format!("UDP {}{missing}, network {}{sources}", s.listen, s.network));
    for what in &s.waiting_for {
        line("waiting", what.clone());
    }
    let cpus: Vec<String> =
        s.workers.iter().map(|w| w.cpu.map_or("any core".into(), |cpu| format!("core {cpu}"))).collect();
    let mut engines: Vec<String> = s.workers.iter().map(engine).collect();
    engines.dedup();
    line("workers", format!("{} ({}), {}", s.workers.len(), cpus.join(", "), engines.join("; ")));
    let offloads: Vec<String> = s.offloads.iter().map(feature).collect();
    line("offloads", offloads.join(", "));
    line("confinement", confinement(&s.confinement, &s.workers));
    line("peers", format!("{} of {} up", s.peers.used, s.peers.of));
    if s.log_lost > 0 {
        line("log", format!("{} lines were lost, because they could not be written", s.log_lost));
    }
    line("tables", format!("{} of {} MACs, {} ARP and ND entries", s.mac_table.used, s.mac_table.of, s.arp_entries));

    out.push_str("\nframes (a super-frame counts once)\n");
    for (name, count) in &s.frames {
        out.push_str(&format!("  {name:<22}{count:>14}\n"));
    }
    out.push_str("\ndropped\n");
    reasons(&mut out, &s.drops, drop_reason);
    out.push_str("\nclaims refused\n");
    reasons(&mut out, &s.refused, refusal_reason);
    out.push_str("\nARP and neighbour discovery\n");
    counters(&mut out, &s.arp);
    out.push_str("\nMACs\n");
    counters(&mut out, &s.macs);
    if s.learn_lost > 0 {
        out.push_str(&format!("  {:<22}{:>14}\n", "learn_lost", s.learn_lost));
    }
    out
}

fn reasons(out: &mut String, counts: &BTreeMap<String, u64>, describe: fn(&str) -> Option<&'static str>) {
    let some: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    if some.is_empty() {
        out.push_str("  nothing\n");
    }
    for (name, count) in some {
        out.push_str(&format!("  {name:<22}{count:>14}  {}\n", describe(name).unwrap_or_default()));
    }
}

fn port(port: &PortStatus) -> String {
    let mtu = port.mtu.map_or("interface gone".to_owned(), |mtu| format!("MTU {mtu}"));
    let state = if port.up { "" } else { "DOWN, " };
    let what = match (port.kind, &port.bridge) {
        (PortKind::Tap, Some(bridge)) => format!("{} {state}in bridge {bridge}", port.name),
        (PortKind::Tap, None) => format!("{} {state}in no bridge", port.name),
        (PortKind::AfPacket, _) => format!("{state}AF_PACKET on {}", port.name),
    };
    format!("{what}, {mtu}, {}", port.mac)
}

/// "io_uring" and what it lacks, or what there is instead.
fn engine(w: &WorkerStatus) -> String {
    let mut text = w.engine.clone();
    if let Some(reason) = &w.no_io_uring {
        text += &format!(" (io_uring: {reason})");
    }
    for missing in w.features.iter().filter(|feature| !feature.on) {
        text += &format!(", {}", feature(missing));
    }
    text
}

/// Who it runs as, what that keeps, and what keeps it there; the list of a worker's ring is the ring's own.
fn confinement(c: &Confinement, workers: &[WorkerStatus]) -> String {
    let capabilities = if c.capabilities.is_empty() { "none".to_owned() } else { c.capabilities.join(", ") };
    let rings = workers.iter().take(1).flat_map(|w| &w.features).filter(|f| f.name == "ring_restrictions");
    let features: Vec<String> = c.features.iter().chain(rings).map(feature).collect();
    format!("user {}, capabilities {capabilities}; {}", c.user, features.join(", "))
}

fn feature(f: &Feature) -> String {
    let reason = f.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
    let since = f.changed_s.map_or(String::new(), |seconds| format!(", since {seconds} s"));
    format!("{} {}{reason}{since}", f.name, if f.on { "on" } else { "off" })
}

fn counters(out: &mut String, stats: &impl serde::Serialize) {
    let value = serde_json::to_value(stats).unwrap_or_default();
    let counts = value.as_object().into_iter().flatten().filter_map(|(name, n)| Some((name, n.as_u64()?)));
    let mut shown = 0;
    for (name, count) in counts.filter(|(_, n)| *n > 0) {
        out.push_str(&format!("  {name:<22}{count:>14}\n"));
        shown += 1;
    }
    if shown == 0 {
        out.push_str("  nothing yet\n");
    }
}

/// `ipop peers`.
pub(crate) fn peers(report: &Peers) -> String {
    let rows = report.peers.iter().map(|p| {
        vec![
            p.name.clone(),
            p.address.clone(),
            p.state.clone(),
            p.up_s.map_or("-".into(), duration),
            p.last_heard_s.map_or("never".into(), |s| format!("{} ago", duration(s))),
            if p.state == "up" { p.path_mtu.to_string() } else { "-".into() },
            p.macs.to_string(),
            p.rx_frames.to_string(),
            octets(p.rx_bytes),
            p.tx_frames.to_string(),
            octets(p.tx_bytes),
            p.zero_copy.clone(),
        ]
    });
    let head = [
        "PEER",
        "ADDRESS",
        "STATE",
        "FOR",
        "HEARD",
        "PATH MTU",
        "MACS",
        "RX FRAMES",
        "RX",
        "TX FRAMES",
        "TX",
        "ZERO COPY",
    ];
    let mut out = table(&head, rows.collect(), "no peers in the config");
    for peer in &report.peers {
        if let Some(trouble) = &peer.trouble_text {
            out.push_str(&format!("{} is down: {trouble}\n", peer.name));
        }
        if let Some([here, there]) = &peer.key_twice {
            out.push_str(&format!("{}: two gateways have its key, {here} (the link's) and {there}\n", peer.name));
        }
    }
    for peer in report.peers.iter().filter(|peer| peer.messages_dropped > 0) {
        out.push_str(&format!("{} sends too many messages: {} dropped\n", peer.name, peer.messages_dropped));
    }
    out
}

/// `ipop rekey`.
pub(crate) fn rekey(report: &Rekey) -> String {
    match report.asked {
        0 => "no peer to agree on new keys with: none is up, or links are in clear text\n".to_owned(),
        asked => format!("new keys are being agreed on with {asked} peers\n"),
    }
}

/// `ipop macs`.
pub(crate) fn macs(report: &Macs) -> String {
    let rows = report.macs.iter().map(|m| {
        let vlan = format!("{}{}", if m.service { "s" } else { "" }, m.vlan);
        let note = match m.frozen_s {
            Some(left) => format!("frozen for {}", duration(left)),
            None if m.sticky => "sticky".to_owned(),
            None => String::new(),
        };
        let (age, left) = (duration(m.age_s), duration(m.expires_in_s));
        vec![vlan, m.mac.clone(), m.place.clone(), m.seq.to_string(), age, left, note]
    });
    table(&["VLAN", "MAC", "WHERE", "MOVES", "SEEN AGO", "EXPIRES IN", ""], rows.collect(), "no MAC has been seen yet")
}

/// `ipop macs release`.
pub(crate) fn released(report: &Released) -> String {
    match report.released {
        0 => "that MAC address is not frozen\n".to_owned(),
        _ => "claims on that MAC address are heard again\n".to_owned(),
    }
}

/// `ipop arp`.
pub(crate) fn arp(report: &Arp) -> String {
    let rows = report.entries.iter().map(|e| {
        vec![
            e.vlan.to_string(),
            e.ip.clone(),
            e.mac.clone(),
            e.place.clone(),
            e.source.clone(),
            duration(e.age_s),
            duration(e.expires_in_s),
        ]
    });
    let head = ["VLAN", "ADDRESS", "MAC", "WHERE", "FROM", "AGE", "EXPIRES IN"];
    let mut out = table(&head, rows.collect(), "no address is known yet");
    if !report.pending.is_empty() {
        out.push_str("\nasked for now\n");
        for p in &report.pending {
            out.push_str(&format!("  {} (VLAN {}): {} waiting, asked {} times\n", p.ip, p.vlan, p.askers, p.tries));
        }
    }
    if !report.unanswered.is_empty() {
        out.push_str("\nnobody answers for\n");
        for u in &report.unanswered {
            out.push_str(&format!("  {} (VLAN {}): asked in vain {} times\n", u.ip, u.vlan, u.failures));
        }
    }
    out
}

/// `ipop rpc`.
pub(crate) fn rpc(report: &Rpc) -> String {
    if report.messages.is_empty() {
        return "no message has passed yet\n".into();
    }
    let mut out = String::new();
    for m in &report.messages {
        let seconds = format!("{}.{:03}", m.at_ms / 1000, m.at_ms % 1000);
        let arrow = if m.direction == "sent" { "-->" } else { "<--" };
        out.push_str(&format!("{seconds:>10} s {arrow} {:<12} {}\n", m.peer, m.message));
    }
    out
}

/// Columns as wide as their widest cell, two blanks between them.
fn table(head: &[&str], rows: Vec<Vec<String>>, empty: &str) -> String {
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in [&head].into_iter().chain(&rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn octets(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len() - 1).find(|u| n >> (10 * (u + 1)) == 0).unwrap_or(UNITS.len() - 1);
    if unit == 0 { format!("{n} B") } else { format!("{:.1} {}", n as f64 / (1u64 << (10 * unit)) as f64, UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".into(), "long cell".into(), "x".into()], vec!["abc".into(), "b".into(), "y".into()]];
        assert_eq!(table(&["ONE", "TWO", "3"], rows, ""), "ONE  TWO        3\na    long cell  x\nabc  b          y\n");
        assert_eq!(table(&["ONE"], vec![], "none"), "none\n");
    }

    #[test]
    fn what_is_off_has_a_reason() {
        let off = Feature {
            name: "multishot_read".into(),
            on: false,
            reason: Some("Invalid argument".into()),
            changed_s: None,
        };
        let on = Feature { name: "tso".into(), on: true, reason: None, changed_s: None };
        assert_eq!(feature(&on), "tso on");
        let later = Feature { changed_s: Some(7), ..off.clone() };
        assert_eq!(feature(&later), "multishot_read off (Invalid argument), since 7 s");
        let mut status = WorkerStatus {
            cpu: Some(1),
            ports: vec![5800],
            engine: "io_uring".into(),
            no_io_uring: None,
            features: vec![on, off],
        };
        assert_eq!(engine(&status), "io_uring, multishot_read off (Invalid argument)");
        (status.engine, status.features) = ("system calls".into(), vec![]);
        status.no_io_uring = Some("Operation not permitted".into());
        assert_eq!(engine(&status), "system calls (io_uring: Operation not permitted)");
    }

    #[test]
    fn numbers_for_people() {
        let durations: Vec<_> = [0, 59, 60, 3599, 3600, 90_000].map(duration).into();
        assert_eq!(durations, ["0s", "59s", "1m00s", "59m59s", "1h00m", "1d01h"]);
        let sizes: Vec<_> = [0, 1023, 1024, 1 << 20, u64::MAX].map(octets).into();
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "16777216.0 TiB"]);
    }
}
