//! Backups: a consistent copy of each tenant's database, then of its files.
//!
//! The database holds everything but the files: keys, accounts, rooms. It is copied first, so each file that the copy names is
//! there to be copied after it, unless it was deleted meanwhile. Files never change under their names: those that an earlier
//! backup in the same directory holds are not copied again.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use samtal_media::Location;
use samtal_ops::Homeserver;

use super::{Answer, told};

/// Copies all tenants.
pub(super) async fn backup(homeservers: &[Arc<Homeserver>], directory: &Path) -> Answer {
    let mut lines = Vec::new();
    for homeserver in homeservers {
        let name = homeserver.name.as_str();
        let into = directory.join(place(name));
        crate::lock::private_dir(&into).map_err(|e| format!("{}: {e}", into.display()))?;
        if homeserver.db.is_postgres() {
            lines.push(format!("{name}: the database is PostgreSQL's to back up (pg_dump)"));
        } else {
            let path = into.join("samtal.db");
            // A copy that breaks off never takes an earlier one's place.
            let part = into.join("samtal.db.part");
            let _ = std::fs::remove_file(&part);
            homeserver.db.backup(part.clone()).await.map_err(|e| format!("{name}: {}", told(&e)))?;
            std::fs::rename(&part, &path).map_err(|e| format!("{}: {e}", path.display()))?;
            lines.push(format!("{name} -> {}", path.display()));
        }
        match &homeserver.media.options().location {
            Location::Directory(from) => {
                let (from, into) = (from.clone(), into.join("media"));
                let copied = tokio::task::spawn_blocking(move || copy_files(&from, &into)).await;
                let copied = copied.map_err(|e| told(&e))?.map_err(|e| format!("{name}: files: {e}"))?;
                lines.push(format!("{name}: {} new, {} in all", count(copied.new), copied.all));
            }
            _ => lines.push(format!("{name}: the files are in another store, whose own tools back them up")),
        }
    }
    Ok(lines)
}

/// A tenant's name as the name of a directory.
pub(super) fn place(name: &str) -> String {
    name.replace([':', '[', ']'], "_")
}

fn count(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

struct Copied {
    new: usize,
    all: usize,
}

/// Makes `into` hold the files of `from`, and no others. The `fetch` of a file that is gone by then is no error.
fn copy_files(from: &Path, into: &Path) -> io::Result<Copied> {
    crate::lock::private_dir(into)?;
    let there = files_below(from)?;
    let mut copied = Copied { new: 0, all: 0 };
    for path in &there {
        let (source, target) = (from.join(path), into.join(path));
        let length = match std::fs::metadata(&source) {
            Ok(known) => known.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        copied.all += 1;
        if std::fs::metadata(&target).is_ok_and(|known| known.len() == length) {
            continue;
        }
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut part = target.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        std::fs::copy(&source, &part)?;
        std::fs::File::open(&part)?.sync_all()?;
        std::fs::rename(&part, &target)?;
        copied.new += 1;
    }
    for path in files_below(into)?.difference(&there) {
        std::fs::remove_file(into.join(path))?;
    }
    Ok(copied)
}

/// The files in a directory and below it, by their paths in it.
fn files_below(directory: &Path) -> io::Result<HashSet<PathBuf>> {
    let mut found = HashSet::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(at) = waiting.pop() {
        let entries = match std::fs::read_dir(directory.join(&at)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let path = at.join(entry.file_name());
            match entry.file_type()? {
                kind if kind.is_dir() => waiting.push(path),
                kind if kind.is_file() => drop(found.insert(path)),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Puts a tenant's copy back where the configuration wants it. Nothing may be there.
pub(crate) fn put_back(from: &Path, database: &Path, media: Option<&Path>) -> io::Result<Vec<String>> {
    let source = from.join("samtal.db");
    if database.exists() {
        let why = format!("{} is there already: move it away first", database.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    let mut part = database.to_owned().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    std::fs::copy(&source, &part).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", source.display())))?;
    std::fs::File::open(&part)?.sync_all()?;
    let mut lines = Vec::new();
    // Files first: a database whose files are missing must not look complete.
    if let Some(media) = media {
        let copied = copy_files(&from.join("media"), media)?;
        lines.push(format!("{} put back in {}", count(copied.all), media.display()));
    }
    std::fs::rename(&part, database)?;
    lines.push(format!("{} put back", database.display()));
    Ok(lines)
}
