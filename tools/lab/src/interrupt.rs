//! Ctrl-C as a flag, so that a program can unwind and let `Drop` take the lab down.
//!
//! Without [`install`] the flag is never set and SIGINT ends the program as usual, with everything left behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Context, Error, Result};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// How often a wait looks at the flag.
const GLANCE: Duration = Duration::from_millis(20);

fn flag() -> &'static Arc<AtomicBool> {
    FLAG.get_or_init(|| Arc::new(AtomicBool::new(false)))
}

/// From now on SIGINT, SIGTERM and SIGHUP set the flag instead of ending the program.
pub fn install() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag())).context("installing a signal handler")?;
    }
    Ok(())
}

/// Has a signal arrived since [`install`]?
pub fn requested() -> bool {
    flag().load(Ordering::Relaxed)
}

/// [`Error::Interrupted`] once a signal has arrived.
pub fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted) } else { Ok(()) }
}

/// The variable of the environment that says how many times as long as usual everything may take.
pub const SLOWNESS: &str = "IPOP_LAB_SLOWNESS";

/// A time limit, made longer on a machine that is slow and says so by [`SLOWNESS`], as an emulated one is.
pub fn patient(limit: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    let times = TIMES.get_or_init(|| std::env::var(SLOWNESS).ok().and_then(|text| text.parse().ok()).unwrap_or(1));
    limit * *times
}

/// Sleeps, unless a signal arrives first.
pub fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(GLANCE));
    }
}

/// Asks `ready` again and again until it gives a value; fails when `timeout` has passed ([`patient`]), or when a signal arrives.
pub fn wait_until<T>(what: &str, timeout: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let timeout = patient(timeout);
    let end = Instant::now() + timeout;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            return Err(Error::InVain { what: what.to_owned(), after: timeout });
        }
        sleep(GLANCE)?;
    }
}
