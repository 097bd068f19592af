//! TCP throughput.

use std::thread;
use std::time::Duration;

use super::Bench;
use crate::error::Result;
use crate::result::{Detail, Figure, Stream, Unit, ids};
use crate::scenario::Tcp;
use crate::session::client::unexpected;
use crate::session::{Reply, Request};
use crate::traffic::flows::{Flows, Role, connect};

/// One number of flows, one way.
pub(super) fn measure(bench: &mut Bench<'_>, tcp: &Tcp, flows: u32, backward: bool) -> Result<()> {
    let id = ids::tcp(flows, backward);
    bench.begin(&id)?;
    let session = &mut *bench.session;
    let tag = session.tag();
    let (request, role) = if backward {
        (Request::SendFlows { flows, tag }, Role::Receive)
    } else {
        (Request::ReceiveFlows { flows, tag }, Role::Send)
    };
    let to = session.listen(&request)?;
    let running = Flows::start(connect(to, flows, tag)?, role)?;
    thread::sleep(Duration::from_secs_f64(tcp.omit));
    let window = session.open_window()?;
    // The receiver counts, whichever end that is.
    let (bytes, seconds) = if backward {
        running.window(Duration::from_secs_f64(tcp.seconds))?
    } else {
        session.begin(&Request::CountFlows { seconds: tcp.seconds })?;
        match session.finish(Duration::from_secs_f64(tcp.seconds))? {
            Reply::Counted { bytes, seconds } => (bytes, seconds),
            other => return Err(unexpected(&other)),
        }
    };
    let mut cpu = session.close_window(window)?;
    let ours = running.retransmits();
    let theirs = match session.ask(&Request::Stop)? {
        Reply::Sent { retransmits } => retransmits,
        other => return Err(unexpected(&other)),
    };
    drop(running);
    let bits = bytes as f64 * 8.0;
    // Question and answer took their time too, and the flows went on meanwhile.
    cpu.bits = Some(bits / seconds * cpu.window);
    bench.add(Figure {
        id,
        value: bits / seconds,
        unit: Unit::BitsPerSecond,
        detail: Detail::Stream(Stream { bytes, seconds, retransmits: ours.or(theirs) }),
        cpu: Some(cpu),
    });
    Ok(())
}
