//! Who may import whom: own or lower floors only, and no cycle inside a floor.
//!
//! Cargo itself refuses cycles between crates; what is left is the direction.

use crate::tree::Tree;

/// The floors, lowest first. A crate that is not here has not been given its place yet.
const FLOORS: &[&[&str]] = &[
    &["kit", "db", "http", "telemetry"],
    &["model", "config"],
    &["event", "state"],
    &["keyring", "policy", "account", "room", "edu", "e2ee", "remote", "media", "jobs"],
    &["sync", "push", "sender", "appservice", "search"],
    &["ops"],
    &["edge", "client-api", "federation-api", "admin-api"],
    &["server", "samtal"],
    &["bench", "sim", "xtask"],
];

/// The configuration file is the assembly's business: engines get plain options.
const CONFIG_READERS: &[&str] = &["server", "samtal", "bench", "sim"];

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&name))
}

/// Complains about imports upwards and about crates without a floor.
pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for one in &tree.crates {
        let Some(here) = floor(&one.name) else {
            complaints
                .push(format!("{} has no floor: give it one in xtask/src/floors.rs and ARCHITECTURE.md", one.name));
            continue;
        };
        for need in &one.needs {
            match floor(need) {
                Some(there) if there > here => {
                    complaints.push(format!("{} (floor {here}) imports {need} (floor {there})", one.name));
                }
                _ if need == "config" && !CONFIG_READERS.contains(&one.name.as_str()) => {
                    complaints.push(format!("{} imports config, which only the assembly may read", one.name));
                }
                _ => {}
            }
        }
    }
    complaints
}
