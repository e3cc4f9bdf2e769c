//! The source as the checks see it: the files that git keeps, and the crates that cargo knows.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// One text file.
pub(crate) struct File {
    /// From the root of the repository.
    pub(crate) path: String,
    /// What is in it.
    pub(crate) text: String,
}

/// One crate of the workspace.
pub(crate) struct Crate {
    /// Without `samtal-` in front.
    pub(crate) name: String,
    /// The crates of the workspace that it needs, by the same names; what only its tests need is left out.
    pub(crate) needs: Vec<String>,
}

/// All of it.
pub(crate) struct Tree {
    /// The root of the repository.
    pub(crate) root: PathBuf,
    /// Text files that git keeps or would keep.
    pub(crate) files: Vec<File>,
    /// The workspace's crates.
    pub(crate) crates: Vec<Crate>,
}

impl Tree {
    /// Reads the repository that xtask is run of: another one than it was built in, if they share what cargo builds.
    pub(crate) fn read() -> io::Result<Self> {
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR").ok_or_else(|| io::Error::other("run it by cargo"))?;
        let root = Path::new(&xtask).join("..").canonicalize()?;
        Ok(Self { files: files(&root)?, crates: crates(&root)?, root })
    }

    /// The Rust files under `crates/` and `xtask/`.
    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }
}

/// A crate's short name.
pub(crate) fn short(name: &str) -> String {
    name.strip_prefix("samtal-").unwrap_or(name).to_owned()
}

fn files(root: &Path) -> io::Result<Vec<File>> {
    let list = output(root, "git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // What is deleted but not yet committed, and what is no text, is nobody's business.
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            files.push(File { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

fn crates(root: &Path) -> io::Result<Vec<Crate>> {
    let text = output(root, "cargo", &["metadata", "--format-version", "1", "--no-deps", "--offline"])?;
    let metadata: Value = serde_json::from_str(&text)?;
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    Ok(list(&metadata, "packages")
        .iter()
        .map(|package| Crate {
            name: short(package["name"].as_str().unwrap_or_default()),
            needs: list(package, "dependencies")
                .iter()
                .filter(|need| need["path"].is_string() && need["kind"] != "dev")
                .filter_map(|need| need["name"].as_str().map(short))
                .collect(),
        })
        .collect())
}

fn output(root: &Path, program: &str, arguments: &[&str]) -> io::Result<String> {
    let done = Command::new(program).args(arguments).current_dir(root).output()?;
    if !done.status.success() {
        return Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
