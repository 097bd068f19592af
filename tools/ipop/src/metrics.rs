//! `ipop metrics`: what a gateway counts, in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write;

use ipop_control::report::{Peer, Peers, Status};
use serde::Serialize;

/// Everything that `ipop status` and `ipop peers` count.
pub(crate) fn metrics(status: &Status, peers: &Peers) -> String {
    let mut out = Text::default();
    let identity = [("version", &*status.version), ("name", &status.name), ("uid", &status.uid)];
    out.gauge("info", "The gateway: always 1.").sample(&identity, 1);
    out.gauge("encrypted", "1 if links are encrypted, 0 if \"sec\" is false.").sample(&[], u64::from(status.sec));
    out.gauge("uptime_seconds", "Since the start.").sample(&[], status.uptime_s);
    out.gauge("port_up", "1 unless somebody has set the port down.").sample(&[], u64::from(status.port.up));
    out.gauge("peers", "Other gateways in the config.").sample(&[], status.peers.of as u64);
    out.gauge("mac_table_entries", "MAC addresses in the table.").sample(&[], status.mac_table.used as u64);
    out.gauge("mac_table_size", "MAC addresses that the table may have.").sample(&[], status.mac_table.of as u64);
    out.gauge("arp_entries", "Entries of the ARP and ND table.").sample(&[], status.arp_entries as u64);
    let features = status.offloads.iter().chain(&status.confinement.features);
    let mut family = out.gauge("feature", "1 if what the kernel can do for the gateway is in use.");
    features.for_each(|feature| family.sample(&[("name", &feature.name)], u64::from(feature.on)));

    let mut family =
        out.counter("frames_total", "Frames that went where they should, by where that is; a super-frame is one.");
    status.frames.iter().for_each(|(ending, count)| family.sample(&[("ending", ending)], *count));
    let mut family = out.counter("dropped_total", "Frames and datagrams that were dropped, by reason.");
    status.drops.iter().for_each(|(reason, count)| family.sample(&[("reason", reason)], *count));
    let mut family = out.counter("claims_refused_total", "Claims of MACs and addresses that were refused, by reason.");
    status.refused.iter().for_each(|(reason, count)| family.sample(&[("reason", reason)], *count));
    out.counter("log_lines_lost_total", "Lines of the log that could not be written.").sample(&[], status.log_lost);
    out.counter("sources_not_told_total", "New sources beyond the rate.").sample(&[], status.learn_lost);
    events(&mut out.counter("resolution_events_total", "What happened to ARP and neighbour discovery."), &status.arp);
    events(&mut out.counter("mac_events_total", "What happened to MACs."), &status.macs);

    let each = |family: &mut Family<'_>, value: &dyn Fn(&Peer) -> u64| {
        peers.peers.iter().for_each(|peer| family.sample(&[("peer", &peer.name)], value(peer)));
    };
    each(&mut out.gauge("peer_up", "1 if the link is up."), &|p| u64::from(p.state == "up"));
    each(&mut out.counter("peer_ups_total", "How often the link came up."), &|p| p.ups);
    each(&mut out.gauge("peer_path_mtu_bytes", "MTU of the path, as far as is known."), &|p| p.path_mtu as u64);
    each(&mut out.gauge("peer_macs", "MAC addresses behind the peer."), &|p| p.macs as u64);
    each(&mut out.counter("peer_received_frames_total", "Frames that were delivered."), &|p| p.rx_frames);
    each(&mut out.counter("peer_received_bytes_total", "Their octets."), &|p| p.rx_bytes);
    each(&mut out.counter("peer_received_datagrams_total", "Valid datagrams."), &|p| p.rx_datagrams);
    each(&mut out.counter("peer_sent_frames_total", "Frames."), &|p| p.tx_frames);
    each(&mut out.counter("peer_sent_bytes_total", "Their octets."), &|p| p.tx_bytes);
    each(&mut out.counter("peer_sent_datagrams_total", "Datagrams."), &|p| p.tx_datagrams);
    each(&mut out.counter("peer_messages_dropped_total", "Messages beyond what the peer may send."), &|p| {
        p.messages_dropped
    });
    out.0
}

/// Counters that are the fields of a structure.
fn events(family: &mut Family<'_>, stats: &impl Serialize) {
    let value = serde_json::to_value(stats).unwrap_or_default();
    for (event, count) in value.as_object().into_iter().flatten() {
        if let Some(count) = count.as_u64() {
            family.sample(&[("event", event)], count);
        }
    }
}

#[derive(Default)]
struct Text(String);

/// One metric, with a sample for each combination of labels.
struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl Text {
    fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        self.0 += &format!("# HELP ipop_{name} {help}\n# TYPE ipop_{name} {kind}\n");
        Family { out: &mut self.0, name }
    }
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // Writing to a String does not fail.
        let _ = writeln!(self.out, "ipop_{}{labels} {value}", self.name);
    }
}

/// As the format wants it in a label's value; names come from configs.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_samples() {
        let mut out = Text::default();
        out.gauge("encrypted", "Whether.").sample(&[], 1);
        let mut family = out.counter("dropped_total", "By reason.");
        family.sample(&[("reason", "no_peer")], 7);
        family.sample(&[("reason", "a \"b\" \\ \n"), ("peer", "x")], 0);
        assert_eq!(
            out.0,
            "# HELP ipop_encrypted Whether.\n# TYPE ipop_encrypted gauge\nipop_encrypted 1\n\
             # HELP ipop_dropped_total By reason.\n# TYPE ipop_dropped_total counter\n\
             ipop_dropped_total{reason=\"no_peer\"} 7\n\
             ipop_dropped_total{reason=\"a \\\"b\\\" \\\\ \\n\",peer=\"x\"} 0\n"
        );
    }
}
