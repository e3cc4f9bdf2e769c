//! Which changes of a configuration that is read again wait for the next start.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use ruma::OwnedServerName;
use toml::{Table, Value};

use crate::load::join;
use crate::{Config, Opt, Reload, Shape};

/// What the options that only a start takes in are set to: by tenant (none: the whole process), then by the option's
/// path. Marks in place of the values, since there are secrets among them.
pub(crate) type InEffect = BTreeMap<Option<OwnedServerName>, BTreeMap<String, u64>>;

impl Config {
    /// Compares this configuration, read just now, with the one that runs: the options that were changed and wait for
    /// the next start. From then on it remembers what they are until then, so that the next comparison tells them again.
    ///
    /// Tenants that came or went do not wait.
    pub fn awaiting_restart(&mut self, running: &Config) -> Vec<String> {
        let mut waiting = Vec::new();
        for (tenant, marks) in &mut self.in_effect {
            let Some(before) = running.in_effect.get(tenant) else { continue };
            let of = tenant.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            waiting.extend(changed(before, marks).into_iter().map(|option| option + &of));
            marks.clone_from(before);
        }
        waiting
    }
}

/// Where two differ: a table that came or went counts as one.
fn changed(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Vec<String> {
    let mut options: Vec<&String> = before.keys().chain(now.keys()).filter(|o| before.get(*o) != now.get(*o)).collect();
    options.sort();
    options.dedup();
    let mut told: Vec<String> = Vec::new();
    for option in options {
        let is_inside = |table: &String| option.strip_prefix(table.as_str()).is_some_and(|rest| rest.starts_with('.'));
        if !told.iter().any(is_inside) {
            told.push(option.clone());
        }
    }
    told
}

/// The marks of all options in a table that wait for a start.
pub(crate) fn marks(options: &[Opt], table: &Table) -> BTreeMap<String, u64> {
    let mut marks = BTreeMap::new();
    note(&mut marks, options, table, "");
    marks
}

fn note(marks: &mut BTreeMap<String, u64>, options: &[Opt], table: &Table, path: &str) {
    for option in options.iter().filter(|option| option.meta.reload == Reload::Restart) {
        let Some(value) = table.get(option.name) else { continue };
        let path = join(path, option.name);
        match (&option.shape, value) {
            (Shape::Table { options, .. }, Value::Table(inner)) => {
                marks.insert(path.clone(), 0);
                note(marks, &options(), inner, &path);
            }
            (Shape::Tables { options, .. }, Value::Array(items)) => {
                for (i, item) in items.iter().enumerate() {
                    let path = format!("{path}[{}]", i + 1);
                    marks.insert(path.clone(), 0);
                    if let Value::Table(inner) = item {
                        note(marks, &options(), inner, &path);
                    }
                }
            }
            (_, value) => {
                let mut hasher = DefaultHasher::new();
                value.to_string().hash(&mut hasher);
                marks.insert(path, hasher.finish());
            }
        }
    }
}
