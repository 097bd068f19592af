//! One run of the lab: its names, its directory, and the removal of everything that carries its name.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::command::Cmd;
use crate::error::{Context, Error, Result};
use crate::{lxc, netns};

/// Where the runs keep configurations, logs, sockets and container roots. Not in /tmp: root's files under a name that
/// can be guessed do not belong there.
const HOME: &str = "/var/lib/ipop-lab";

/// The names of a run begin with this and the process id; named runs must not.
const OWN: &str = "ipop";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The name and the directory that all parts of one lab share. When the last part is dropped, whatever still carries
/// the name is removed.
#[derive(Debug)]
pub struct Run {
    name: String,
    dir: PathBuf,
    kept: AtomicBool,
}

impl Run {
    /// A run under a name of its own: `ipop<pid>-<number>`.
    pub fn new() -> Result<Arc<Self>> {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self::create(format!("{OWN}{}-{number}", std::process::id()))
    }

    /// A run under a fixed name, which another process can find again: see [`tear_down`].
    pub fn named(name: &str) -> Result<Arc<Self>> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(fits) || pid_of(name).is_some() {
            return Err(Error::other(format!(
                "{name:?} cannot be the name of a run: a-z, 0-9 and '-', and not like \"{OWN}123-0\""
            )));
        }
        Self::create(name.to_owned())
    }

    fn create(name: String) -> Result<Arc<Self>> {
        let dir = Path::new(HOME).join(&name);
        // Another run that ends at this moment may remove HOME between the two calls, so try again.
        let create = || fs::create_dir_all(HOME).and_then(|()| DirBuilder::new().mode(0o700).create(&dir));
        let mut created = create();
        for _ in 0..10 {
            match &created {
                Err(error) if error.kind() == ErrorKind::NotFound => created = create(),
                _ => break,
            }
        }
        created.context(format!("creating {}", dir.display()))?;
        Ok(Arc::new(Self { name, dir, kept: AtomicBool::new(false) }))
    }

    /// What the names of this run's namespaces begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The run's own directory, removed at the end.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on dropping the parts of this run removes nothing: [`tear_down`] must do it.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Was [`Run::keep`] called?
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.is_kept()
            && let Err(error) = tear_down(&self.name)
        {
            eprintln!("taking down {}: {error}", self.name);
        }
    }
}

/// Does anything of the run `name` exist?
pub fn exists(name: &str) -> bool {
    Path::new(HOME).join(name).exists() || namespaces_of(name).is_ok_and(|found| !found.is_empty())
}

/// Removes containers, processes, namespaces and files of the run `name`, whoever left them.
pub fn tear_down(name: &str) -> Result<()> {
    let dir = Path::new(HOME).join(name);
    // The directory is ours, or it is not touched: its contents decide what is run as root below.
    let ours = fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == 0);
    if ours {
        lxc::stop_all(&dir);
    }
    let mut first_error = None;
    for namespace in namespaces_of(name)? {
        if let Err(error) = netns::remove(&namespace) {
            first_error.get_or_insert(error);
        }
    }
    if ours {
        fs::remove_dir_all(&dir).context(format!("removing {}", dir.display()))?;
        lxc::remove_locks(&dir);
        // The last one out; fails while others are inside, and that is as it should be.
        let _ = fs::remove_dir(HOME);
    }
    first_error.map_or(Ok(()), Err)
}

/// Removes what runs left behind whose process no longer lives (`kill -9`, a power cut). Named runs are not touched.
/// Returns the names of the runs that were removed.
pub fn clean_stale() -> Result<Vec<String>> {
    let mut names: Vec<String> =
        netns::list()?.iter().filter_map(|namespace| run_of(namespace)).map(str::to_owned).collect();
    if let Ok(entries) = fs::read_dir(HOME) {
        names.extend(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()));
    }
    names.sort();
    names.dedup();
    names.retain(|name| pid_of(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()));
    for name in &names {
        tear_down(name)?;
    }
    Ok(names)
}

/// The run that a namespace belongs to by its name `ipop<pid>-<number>-<label>`.
fn run_of(namespace: &str) -> Option<&str> {
    let (head, rest) = namespace.split_once('-')?;
    let (number, _) = rest.split_once('-')?;
    let run = &namespace[..head.len() + 1 + number.len()];
    pid_of(run).map(|_| run)
}

/// The process that a run's name `ipop<pid>-<number>` tells of; `None` for a named run.
fn pid_of(run: &str) -> Option<u32> {
    let (pid, number) = run.strip_prefix(OWN)?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

fn namespaces_of(run: &str) -> Result<Vec<String>> {
    let prefix = format!("{run}-");
    Ok(netns::list()?.into_iter().filter(|namespace| namespace.starts_with(&prefix)).collect())
}

/// A command that belongs to taking things down: it runs even after Ctrl-C.
pub(crate) fn cleanup<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Cmd {
    Cmd::new(argv).uninterrupted()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_process() {
        assert_eq!(pid_of("ipop12-3"), Some(12));
        assert_eq!(pid_of("ipop-demo"), None);
        assert_eq!(pid_of("ipop12-gw-a"), None);
        assert_eq!(run_of("ipop12-3-gw-a"), Some("ipop12-3"));
        assert_eq!(run_of("ipop-demo-gw-a"), None);
        assert_eq!(run_of("other"), None);
    }
}
