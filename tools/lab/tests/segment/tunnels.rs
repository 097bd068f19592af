//! Tunnels that containers have of their own: what is in them is nobody's business, but their checksums are unfinished deep
//! inside the frame.
//!
//! ```text
//!   tunnel 10.9.0.1                                   tunnel 10.9.0.2
//!      |   VXLAN over                                    |
//!   c0 10.0.3.3 -- gw-a ========================= gw-b -- 10.0.3.104 c1
//! ```

use ipop_lab::Lab;
use ipop_lab::traffic::exchange;

use crate::Test;
use crate::support::{HERE, Outcome, Segment, THERE, ensure};

pub(crate) const TESTS: &[Test] =
    &[Test::with("tcp_in_a_tunnel_between_containers_arrives_whole", &["vxlan"], in_a_tunnel)];

fn in_a_tunnel() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let (c0, c1) = segment.pair()?;
    for (container, remote, address) in [(&c0, THERE, "10.9.0.1/24"), (&c1, HERE, "10.9.0.2/24")] {
        let interface = container.interface();
        for line in [
            format!("link add tunnel type vxlan id 7 remote {remote} dstport 4789 dev {interface}"),
            format!("address add {address} dev tunnel"),
            "link set tunnel up".to_owned(),
        ] {
            container.netns().ip(&line)?;
        }
    }
    exchange(&c0, &c1, "10.9.0.2", 2, 4 << 20)?;
    for gateway in 0..2 {
        let refused = segment.counter(gateway, "/drops/checksum_place")?;
        ensure(refused == 0, || format!("gateway {gateway} refused {refused} frames"))?;
    }
    Ok(())
}
