//! `samtal backup`, `samtal restore`.

use std::path::Path;

use samtal_config::Source;
use samtal_server::control::{self, Command, told};

use crate::Outcome;

pub(crate) async fn backup(source: &Source, directory: &Path) -> Outcome {
    // The running server may have another working directory.
    let directory = std::path::absolute(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    run(source, Command::Backup { directory }).await
}

pub(crate) async fn restore(source: &Source, directory: &Path) -> Outcome {
    for line in control::restore(source, directory).await.map_err(|e| told(&e))?? {
        println!("{line}");
    }
    Ok(())
}

/// Runs a command and prints what it answers.
pub(crate) async fn run(source: &Source, command: Command) -> Outcome {
    for line in control::run(source, command).await.map_err(|e| told(&e))?? {
        println!("{line}");
    }
    Ok(())
}
