//! Whose rights a gateway keeps.

use std::io;

use ipop_dataplane::feature::{State, words};
use nix::unistd::{getegid, geteuid};
use rustix::thread::{CapabilitySet, set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::config::UserChoice;

/// The user of a system where somebody has made one for this program, and the one that is there everywhere.
const USUAL: [&str; 2] = ["ipop", "nobody"];

/// Why a gateway cannot be the user that its config names.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is none.
    #[error(
        "there is no user '{0}': create it (`useradd --system --shell /usr/sbin/nologin {0}`), name another \"user\", or \
         leave the key out for ipop or nobody"
    )]
    Unknown(String),
    /// No CAP_SETUID or CAP_SETGID.
    #[error(
        "not permitted to become the user '{0}': run as root or with CAP_SETUID and CAP_SETGID, or start it as that user"
    )]
    Permission(String),
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Number of the user.
    pub uid: nix::unistd::Uid,
    /// Number of its group.
    pub gid: nix::unistd::Gid,
}

/// What was decided.
#[derive(Debug, Clone)]
pub(super) struct Decision {
    /// Who it will be.
    pub(super) user: User,
    change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// It is that user already, which is as it should be or not.
    No(State),
    /// It does not run as anybody else.
    Required,
    /// If that is not possible, it stays who it is.
    Wanted,
}

fn find(name: &str) -> Option<User> {
    let found = nix::unistd::User::from_name(name).ok().flatten()?;
    Some(User { name: found.name, uid: found.uid, gid: found.gid })
}

/// The user of this name.
pub(crate) fn known(name: &str) -> Result<User, UserError> {
    find(name).ok_or_else(|| UserError::Unknown(name.to_owned()))
}

/// Who it is now; a number where the system has no name for it.
pub(super) fn present() -> User {
    let (uid, gid) = (geteuid(), getegid());
    let name = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    User { name, uid, gid }
}

impl Decision {
    pub(super) fn take(choice: &UserChoice) -> Result<Decision, UserError> {
        let may_change = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETUID | CapabilitySet::SETGID));
        let same = |state| Ok(Decision { user: present(), change: Change::No(state) });
        match choice {
            UserChoice::Named(name) => {
                let user = known(name)?;
                match user.uid == geteuid() {
                    true if user.uid.is_root() => same(State::by_config()),
                    true => same(State::On),
                    false if !may_change => Err(UserError::Permission(name.clone())),
                    false => Ok(Decision { user, change: Change::Required }),
                }
            }
            _ if !geteuid().is_root() => same(State::On),
            UserChoice::Same => same(State::by_config()),
            UserChoice::Usual if !may_change => same(State::Off("no CAP_SETUID and CAP_SETGID".to_owned())),
            UserChoice::Usual => match USUAL.into_iter().find_map(find) {
                Some(user) => Ok(Decision { user, change: Change::Wanted }),
                None => same(State::Off(format!("there is neither a user '{}' nor '{}'", USUAL[0], USUAL[1]))),
            },
        }
    }

    /// Makes the calling thread that user's; the others stay as they are. Its capabilities stay permitted if
    /// `keep_capabilities`.
    pub(super) fn become_it(&self, keep_capabilities: bool) -> io::Result<State> {
        if let Change::No(state) = &self.change {
            return Ok(state.clone());
        }
        let User { name, uid, gid } = &self.user;
        let (uid, gid) = (rustix::thread::Uid::from_raw(uid.as_raw()), rustix::thread::Gid::from_raw(gid.as_raw()));
        // The user last: without it the rest is not allowed any more.
        let become_user = || -> rustix::io::Result<()> {
            set_keep_capabilities(keep_capabilities)?;
            set_thread_groups(&[])?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)
        };
        match become_user().map_err(io::Error::from) {
            Ok(()) => Ok(State::On),
            Err(error) if self.change == Change::Required => {
                Err(io::Error::new(error.kind(), format!("becoming the user '{name}': {}", words(&error))))
            }
            // Of a user namespace that has no such user, for example.
            Err(error) => Ok(State::Off(format!("becoming '{name}': {}", words(&error)))),
        }
    }
}
