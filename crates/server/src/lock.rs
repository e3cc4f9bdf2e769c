//! One process at a time has a data directory open.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::ServerError;

/// The data directory is this process's until this is dropped (or the process is gone, however it went).
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the directory, which is made if it is not there; nothing if another process has it.
    ///
    /// # Errors
    /// The directory or the lock file cannot be made.
    pub fn take(data_dir: &Path) -> Result<Option<Lock>, ServerError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ServerError::Files { path, source }
        };
        private_dir(data_dir).map_err(failed(data_dir))?;
        let path = data_dir.join("samtal.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(ServerError::Files { path, source }),
        }
    }
}

/// Where a running server listens for an operator's commands.
pub(crate) fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("samtal.sock")
}

/// Makes a directory, and those above it, that only its owner can look into.
pub(crate) fn private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
