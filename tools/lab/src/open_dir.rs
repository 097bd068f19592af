//! A directory that everybody may use: a run's own is root's.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::run::Run;

/// A directory for programs that give up root's rights. Dropping it removes it.
#[derive(Debug)]
pub struct OpenDir(PathBuf);

impl OpenDir {
    /// Makes the one of this run.
    pub fn new(run: &Run) -> Result<OpenDir> {
        let path = std::env::temp_dir().join(format!("{}-open", run.name()));
        let what = || format!("making {}", path.display());
        std::fs::DirBuilder::new().mode(0o700).create(&path).context(what())?;
        let dir = OpenDir(path.clone());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).context(what())?;
        Ok(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for OpenDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
