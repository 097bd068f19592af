//! Least privilege: what a gateway gives up once port, sockets and rings are open.
//!
//! Rights belong to threads, not to the process (credentials(7), capabilities(7)), so each thread gives up its own: that of the log
//! before it writes, workers, which read what strangers send, as soon as their engine works, the control thread last of all. The
//! first two keep no capability and see no file; the control thread keeps CAP_NET_ADMIN where the config names a bridge, because the port is
//! attached again to a bridge that is made anew, follows its MTU, and is made anew itself if somebody deletes it. What a kernel or a container does not let a thread give up is told, and
//! nothing else changes with it.

mod landlock;
mod seccomp;
pub(crate) mod user;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, Sender, channel};

use ipop_dataplane::feature::{Feature, State, words};
use nix::sys::resource::{Resource, setrlimit};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets};

pub use self::user::{User, UserError};
use crate::config::{Config, PortConfig};

/// Which thread it is, for what it may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Worker,
    /// Writes to a file that is open.
    Log,
    /// Asks over sockets that are open.
    Routes,
    Control(Keeps),
}

/// What the control thread looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// A TAP, which is for a person to attach.
    Tap,
    /// A TAP, which is kept in a bridge.
    Bridge,
    /// A whole interface, which may come late.
    Interface,
}

impl Keeps {
    fn of(config: &Config) -> Keeps {
        match &config.port {
            PortConfig::AfPacket { .. } => Keeps::Interface,
            PortConfig::Tap { bridge: Some(_), .. } => Keeps::Bridge,
            PortConfig::Tap { bridge: None, .. } => Keeps::Tap,
        }
    }
}

impl Role {
    fn capabilities(self) -> CapabilitySet {
        match self {
            Role::Control(Keeps::Bridge) => CapabilitySet::NET_ADMIN,
            _ => CapabilitySet::empty(),
        }
    }
}

/// What is given up, decided before anything is opened.
pub struct Confine {
    user: user::Decision,
    keeps: Keeps,
    tell: Sender<Vec<Feature>>,
    told: Receiver<Vec<Feature>>,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// Whose rights the gateway has.
    pub user: String,
    /// Capabilities that the control thread has; the workers have none.
    pub capabilities: Vec<String>,
    /// What keeps it there.
    pub features: Vec<Feature>,
}

const NAMES: [&str; 6] = ["user", "capabilities", "no_new_privs", "landlock", "seccomp", "no_core_dump"];

impl Confine {
    /// Decides by the config and by what this process may do.
    pub fn plan(config: &Config) -> Result<Option<Confine>, UserError> {
        if !config.confine {
            return Ok(None);
        }
        let (tell, told) = channel();
        let user = user::Decision::take(&config.user)?;
        Ok(Some(Confine { user, keeps: Keeps::of(config), tell, told }))
    }

    /// The user that the gateway will be.
    pub fn user(&self) -> &User {
        &self.user.user
    }

    /// What a worker calls on its own thread when its engine works.
    pub fn worker(&self) -> impl FnOnce() -> io::Result<()> + Send + 'static {
        self.other(Role::Worker)
    }

    /// What the thread of the log calls before it writes anything.
    pub fn log(&self) -> impl FnOnce() -> io::Result<()> + Send + 'static {
        self.other(Role::Log)
    }

    /// What the thread that asks for routes calls when its sockets are open.
    pub fn routes(&self) -> impl FnOnce() -> io::Result<()> + Send + 'static {
        self.other(Role::Routes)
    }

    fn other(&self, role: Role) -> impl FnOnce() -> io::Result<()> + Send + 'static {
        let (user, tell) = (self.user.clone(), self.tell.clone());
        move || {
            let features = thread(&user, role, None)?;
            // The receiver lives until every thread has started.
            let _ = tell.send(features);
            Ok(())
        }
    }

    /// For the control thread, when nothing is left to be opened: afterwards it can remove files in `directory`.
    pub fn control(self, directory: BorrowedFd<'_>) -> io::Result<Confinement> {
        let core = no_core_dump();
        let before = user::present();
        let mut features = thread(&self.user, Role::Control(self.keeps), Some(directory))?;
        // Something is in force if it is for each thread; the others have said so before they were ready.
        for other in self.told.try_iter().flatten() {
            if let Some(known) = features.iter_mut().find(|known| known.name == other.name)
                && known.state.is_on()
                && other.state != State::On
            {
                known.state = other.state;
            }
        }
        let user = if nix::unistd::geteuid() == before.uid { before } else { self.user.user };
        features.push(Feature::new(NAMES[5], core));
        Ok(Confinement { user: user.name, capabilities: capabilities(), features })
    }
}

impl Confinement {
    /// Of a gateway that keeps all that it has.
    pub fn none() -> Confinement {
        let features = NAMES.map(|name| Feature::new(name, State::by_config())).into();
        Confinement { user: user::present().name, capabilities: capabilities(), features }
    }
}

/// Those of the calling thread.
fn capabilities() -> Vec<String> {
    let held = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    held.iter_names().map(|(name, _)| name.to_owned()).collect()
}

fn state(result: io::Result<()>) -> State {
    result.map_or_else(|error| State::Off(words(&error)), |()| State::On)
}

/// Gives up what the calling thread does not need. In this order: a filter would refuse what comes before it.
fn thread(user: &user::Decision, role: Role, directory: Option<BorrowedFd<'_>>) -> io::Result<Vec<Feature>> {
    let states = [
        user.become_it(!role.capabilities().is_empty())?,
        state(drop_capabilities(role.capabilities())),
        state(rustix::thread::set_no_new_privs(true).map_err(io::Error::from)),
        landlock::restrict(role, directory),
        state(seccomp::install(role)),
    ];
    Ok(NAMES.into_iter().zip(states).map(|(name, state)| Feature::new(name, state)).collect())
}

/// Keeps `keep`, as far as it is there. What is not inheritable is not ambient either (capabilities(7)); the bounding set only
/// matters to programs that are started, and no_new_privs sees to those.
fn drop_capabilities(keep: CapabilitySet) -> io::Result<()> {
    let held = rustix::thread::capabilities(None)?.permitted & keep;
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Frames and keys are in memory: neither a core file nor another process of the same user may show them.
fn no_core_dump() -> State {
    let limit = setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(io::Error::from);
    state(limit.and_then(|()| Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)))
}

#[cfg(test)]
mod tests;
