//! Programs that speak to the bridge next to them, where it is told to let them speak to others: LLDP and 802.1X.

use std::path::PathBuf;
use std::time::Duration;

use ipop_lab::{Container, OpenDir, interrupt};
use libtest_mimic::Failed;

use crate::Test;
use crate::support::{BOTH, Outcome, Overlay, Segment, ensure};

pub(crate) const TESTS: &[Test] = &[
    Test { name: "lldpd_sees_its_neighbour", needs: &[("vxlan", ""), ("lldpd", "lldpd")], run: lldp },
    Test {
        name: "hostapd_admits_a_station",
        needs: &[("vxlan", ""), ("hostapd", "hostapd"), ("wpa_supplicant", "wpasupplicant")],
        run: admission,
    },
];

/// All that a bridge lets itself be told.
const ALL: u16 = 0xfff8;
const WHILE: Duration = Duration::from_secs(30);

fn written(segment: &Segment, name: &str, text: &str) -> Result<PathBuf, Failed> {
    let path = segment.lab.lab_run().dir().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

fn lldp() -> Outcome {
    for overlay in BOTH {
        let segment = Segment::start(overlay, ALL)?;
        let guests = [segment.guest(0, "c0")?, segment.guest(1, "c1")?];
        // lldpd and its client give up root's rights.
        let open = OpenDir::new(segment.lab.lab_run())?;
        let socket = |guest: &Container| open.path().join(guest.name()).display().to_string();
        let mut daemons = Vec::new();
        for guest in &guests {
            let pid = format!("{}.pid", socket(guest));
            daemons.push(guest.spawn(["lldpd", "-d", "-u", &socket(guest), "-p", &pid, "-I", guest.interface()])?);
        }
        let ask = |guest: &Container, words: &[&str]| {
            guest.exec(["lldpcli", "-u", &socket(guest)].into_iter().chain(words.iter().copied()))
        };
        for guest in &guests {
            let what = format!("lldpd of {} to listen", guest.name());
            interrupt::wait_until(&what, WHILE, || {
                Ok(ask(guest, &["configure", "lldp", "tx-interval", "1"])?.success().then_some(()))
            })?;
        }
        for (guest, other) in [(&guests[0], &guests[1]), (&guests[1], &guests[0])] {
            let what = format!("{overlay:?}: {} to see {}", guest.name(), other.name());
            interrupt::wait_until(&what, WHILE, || {
                Ok(ask(guest, &["show", "neighbors"])?.stdout.contains(other.mac()).then_some(()))
            })?;
        }
    }
    Ok(())
}

/// 802.1X with a user and a password: EAP-MD5 is enough to see that both hear each other.
fn admission() -> Outcome {
    for overlay in BOTH {
        let segment = Segment::start(overlay, ALL)?;
        let (c0, c1) = (segment.guest(0, "c0")?, segment.guest(1, "c1")?);
        let users = written(&segment, "users", "\"guest\" MD5 \"secret\"\n")?;
        let authenticator = written(
            &segment,
            "hostapd",
            &format!(
                "interface={}\ndriver=wired\nieee8021x=1\neap_server=1\neap_user_file={}\nuse_pae_group_addr=1\n",
                c0.interface(),
                users.display()
            ),
        )?;
        let supplicant = written(
            &segment,
            "supplicant",
            "ap_scan=0\nnetwork={\n key_mgmt=IEEE8021X\n eap=MD5\n identity=\"guest\"\n password=\"secret\"\n eapol_flags=0\n}\n",
        )?;
        let (authenticator, supplicant) = (authenticator.display().to_string(), supplicant.display().to_string());
        let mut hostapd = c0.spawn(["hostapd", &authenticator])?;
        hostapd.wait_for_stdout("AP-ENABLED", WHILE)?;
        let mut station = c1.spawn(["wpa_supplicant", "-D", "wired", "-i", c1.interface(), "-c", &supplicant])?;
        let admitted = station.wait_for_stdout("CTRL-EVENT-EAP-SUCCESS", WHILE);
        admitted.map_err(|error| -> Failed { format!("{overlay:?}: {error}\n{}", hostapd.stdout()).into() })?;
        if overlay == Overlay::Ipop {
            let dropped = segment.daemons.iter().map(|daemon| daemon.counter("/drops/bridge_reserved"));
            let dropped: u64 = dropped.sum::<ipop_lab::Result<u64>>()?;
            ensure(dropped == 0, || format!("{dropped} frames were dropped"))?;
        }
    }
    Ok(())
}
