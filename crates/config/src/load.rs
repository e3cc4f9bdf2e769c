//! Reading a configuration: defaults, under the file, under the environment, under arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ruma::OwnedServerName;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::assembly::{added_tenants_dir, main_tenant, tenant};
use crate::effect::{InEffect, marks};
use crate::option::{Section, defaults_of};
use crate::problem::{ConfigError, Problem, brief, choice_hint, nearest};
use crate::process::{Listener, Process};
use crate::tenant::{Tenant, TenantEntry, TenantOptions, Tenants};
use crate::{Opt, Shape};

/// Where a configuration comes from.
#[derive(Debug, Default, Clone)]
pub struct Source {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// Variables of the environment: `SAMTAL_SERVER__NAME` for `server.name`. Others are passed over.
    pub environment: Vec<(String, String)>,
    /// Settings from the command line, as (`server.name`, value).
    pub arguments: Vec<(String, String)>,
}

/// A configuration that was found right.
#[derive(Debug, Clone)]
pub struct Config {
    /// What holds for the whole process.
    pub process: Process,
    /// The tenants, that of `server.name` first.
    pub tenants: Vec<Tenant>,
    pub(crate) in_effect: InEffect,
    places: Places,
}

/// Where each option was given: a file, variable or argument, and in a file the line and column.
type Places = BTreeMap<String, (String, Option<(usize, usize)>)>;

impl Source {
    /// The file, and this process's environment.
    pub fn from_environment(file: Option<PathBuf>) -> Source {
        Source { file, environment: std::env::vars().collect(), arguments: Vec::new() }
    }

    /// Reads and checks it all.
    ///
    /// # Errors
    /// The file cannot be read, or something in it or in the variables is wrong: then all that
    /// is wrong is listed.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let (place, text) = match &self.file {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                (path.display().to_string(), text)
            }
            None => ("(no file)".to_owned(), String::new()),
        };
        let mut reading = Reading::default();
        let mut user = reading.document(&place, &text)?;
        reading.environment(&mut user, &self.environment);
        reading.arguments(&mut user, &self.arguments);
        reading.finish(user)
    }
}

impl Config {
    /// Reads a text as if it were a file.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn from_text(text: &str) -> Result<Config, ConfigError> {
        let mut reading = Reading::default();
        let user = reading.document("samtal.toml", text)?;
        reading.finish(user)
    }

    /// Tells what is wrong with an option that only its use has shown, such as a file that is not there.
    pub fn problem(&self, option: &str, message: String) -> Problem {
        problem_at(&self.places, option, option, message)
    }
}

/// Where each key was found, and what was found wrong.
#[derive(Default)]
struct Reading {
    places: Places,
    problems: Vec<Problem>,
}

impl Reading {
    fn document(&mut self, place: &str, text: &str) -> Result<Table, ConfigError> {
        self.document_at(place, text, "")
    }

    /// Reads a document whose options stand under `path`.
    fn document_at(&mut self, place: &str, text: &str, path: &str) -> Result<Table, ConfigError> {
        let broken = |e: &toml::de::Error| {
            ConfigError::Wrong(vec![Problem {
                place: place.to_owned(),
                position: e.span().map(|span| position(text, span.start)),
                option: String::new(),
                message: e.message().trim().to_owned(),
            }])
        };
        let spans = DeTable::parse(text).map_err(|e| broken(&e))?;
        self.note_table(place, text, path, spans.get_ref());
        text.parse::<Table>().map_err(|e| broken(&e))
    }

    fn note_table(&mut self, place: &str, text: &str, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = join(path, key.get_ref());
            let position = position(text, key.span().start);
            self.places.insert(path.clone(), (place.to_owned(), Some(position)));
            self.note_value(place, text, &path, value);
        }
    }

    fn note_value(&mut self, place: &str, text: &str, path: &str, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.note_table(place, text, path, table),
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    let path = format!("{path}[{}]", i + 1);
                    let position = position(text, item.span().start);
                    self.places.insert(path.clone(), (place.to_owned(), Some(position)));
                    self.note_value(place, text, &path, item);
                }
            }
            _ => {}
        }
    }

    fn environment(&mut self, user: &mut Table, variables: &[(String, String)]) {
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix("SAMTAL_") else { continue };
            let path = rest.to_ascii_lowercase().replace("__", ".");
            // A single word may be anything (SAMTAL_CONFIG); only lists of tables are options.
            let known = all_options().iter().any(|o| o.name == path && matches!(o.shape, Shape::Tables { .. }));
            if path.contains('.') || known {
                self.set(user, &format!("variable {name}"), &path, value);
            } else if let Some(meant) = with_single_underscores(&all_options(), &path) {
                let variable = format!("SAMTAL_{}", meant.to_ascii_uppercase().replace('.', "__"));
                let at = format!("variable {name}");
                self.places.insert(at.clone(), (at.clone(), None));
                self.problem_at(&at, "", format!("there is no such variable; is `{variable}` meant?"));
            }
        }
    }

    fn arguments(&mut self, user: &mut Table, arguments: &[(String, String)]) {
        for (path, value) in arguments {
            self.set(user, "argument", path, value);
        }
    }

    /// Sets one option from a text that is a TOML value, a bare text, or a list with commas.
    fn set(&mut self, user: &mut Table, place: &str, path: &str, text: &str) {
        let (mut text_is_value, mut list) = (false, false);
        if let Some(Shape::Value { text, list: is_list, .. }) = find(path) {
            (text_is_value, list) = (text, is_list);
        }
        let toml = || format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        let value = if text_is_value {
            // As it is, a number too; but who has put it in quotes meant what is in them.
            toml().filter(Value::is_str).unwrap_or_else(|| Value::String(text.to_owned()))
        } else {
            match toml() {
                Some(value) if !list || value.is_array() => value,
                _ if list => Value::Array(
                    text.split(',')
                        .map(str::trim)
                        .filter(|s| !s.is_empty())
                        .map(|s| Value::String(s.to_owned()))
                        .collect(),
                ),
                _ => Value::String(text.to_owned()),
            }
        };
        let mut keys: Vec<&str> = path.split('.').collect();
        let Some(last) = keys.pop() else { return };
        let mut table = user;
        let mut so_far = String::new();
        for key in keys {
            so_far = join(&so_far, key);
            self.places.entry(so_far.clone()).or_insert_with(|| (place.to_owned(), None));
            let entry = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = entry else {
                self.problem(path, "cannot be set here: a table of that name is a list".to_owned());
                return;
            };
            table = inner;
        }
        self.places.insert(path.to_owned(), (place.to_owned(), None));
        table.insert(last.to_owned(), value);
    }

    fn finish(mut self, mut user: Table) -> Result<Config, ConfigError> {
        let mut tenants = match user.remove("tenants") {
            Some(Value::Array(entries)) => entries,
            Some(_) => {
                self.problem("tenants", "expected tables written as [[tenants]]".to_owned());
                Vec::new()
            }
            None => Vec::new(),
        };
        let options = [Process::options(), TenantOptions::options()].concat();
        let defaults = defaults_of::<Process>().into_iter().chain(defaults_of::<TenantOptions>()).collect();
        let mut process = self.lay_over(&options, defaults, user, "");
        let shared = tenant_options(&mut process);
        self.added_tenants(&process, &mut tenants)?;
        let options = [TenantEntry::options(), TenantOptions::options()].concat();
        let defaults: Table = defaults_of::<TenantEntry>().into_iter().chain(shared.clone()).collect();
        let mut entries = Vec::new();
        for (i, entry) in tenants.into_iter().enumerate() {
            let path = format!("tenants[{}]", i + 1);
            match entry {
                Value::Table(entry) => {
                    let table = self.lay_over(&options, defaults.clone(), entry, &path);
                    entries.push((path, table));
                }
                _ => self.problem(&path, "expected a table".to_owned()),
            }
        }
        if self.problems.is_empty() {
            self.build(process, shared, entries)
        } else {
            Err(ConfigError::Wrong(self.problems))
        }
    }

    /// Takes in the tenants that `samtal tenant add` wrote: each file is the inside of one `[[tenants]]`.
    fn added_tenants(&mut self, process: &Table, tenants: &mut Vec<Value>) -> Result<(), ConfigError> {
        let data_dir = process.get("server").and_then(|server| server.get("data_dir")).and_then(Value::as_str);
        let Some(directory) = data_dir.map(|dir| added_tenants_dir(Path::new(dir))) else { return Ok(()) };
        let Ok(files) = std::fs::read_dir(&directory) else { return Ok(()) };
        let mut files: Vec<PathBuf> = files.filter_map(Result::ok).map(|file| file.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        for path in files {
            let text =
                std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let at = format!("tenants[{}]", tenants.len() + 1);
            let place = path.display().to_string();
            tenants.push(Value::Table(self.document_at(&place, &text, &at)?));
            self.places.insert(at, (place, None));
        }
        Ok(())
    }

    fn build(mut self, process: Table, shared: Table, entries: Vec<(String, Table)>) -> Result<Config, ConfigError> {
        let mut in_effect = InEffect::from([(None, marks(&Process::options(), &process))]);
        let shared_marks = marks(&TenantOptions::options(), &shared);
        let process: Option<Process> = self.read("", process);
        let shared: Option<TenantOptions> = self.read("", shared);
        let (Some(process), Some(shared)) = (process, shared) else { return Err(ConfigError::Wrong(self.problems)) };
        let mut tenants = Vec::new();
        if let Some(name) = process.server.name.clone() {
            in_effect.insert(Some(name.clone()), shared_marks);
            self.check_address("server.public_base_url", process.server.public_base_url.as_deref());
            tenants.push(main_tenant(&process.server, name, shared));
        }
        for (path, mut table) in entries {
            let entry_marks = marks(&[TenantEntry::options(), TenantOptions::options()].concat(), &table);
            let options = tenant_options(&mut table);
            if let (Some(entry), Some(options)) = (self.read::<TenantEntry>(&path, table), self.read(&path, options)) {
                self.check_address(&join(&path, "public_base_url"), entry.public_base_url.as_deref());
                in_effect.extend(entry.name.clone().map(|name| (Some(name), entry_marks)));
                tenants.extend(tenant(entry, &process.server.data_dir, options));
            }
        }
        for name in twice(tenants.iter().map(|tenant| &tenant.name)) {
            self.problem("tenants", format!("{name} is there twice"));
        }
        for (i, before) in listening_twice(&process.listeners) {
            let message = format!("{} listens there already", listener_option(before));
            self.problem(&format!("{}.address", listener_option(i)), message);
        }
        if process.server.data_dir.as_os_str().is_empty() {
            self.problem("server.data_dir", "expected a directory, found nothing".to_owned());
        }
        if let Some(url) = &process.database.url
            && !["postgres://", "postgresql://"].iter().any(|scheme| url.expose().starts_with(scheme))
        {
            // The address itself is not told: there may be a password in it.
            self.problem("database.url", "expected an address that begins with postgres://".to_owned());
        }
        if self.problems.is_empty() {
            Ok(Config { process, tenants, in_effect, places: self.places })
        } else {
            Err(ConfigError::Wrong(self.problems))
        }
    }

    /// Clients are sent to this address, so a host alone would leave them with nothing.
    fn check_address(&mut self, option: &str, url: Option<&str>) {
        if let Some(url) = url.filter(|url| !["https://", "http://"].iter().any(|scheme| url.starts_with(scheme))) {
            let found = brief(&Value::String(url.to_owned()));
            self.problem(option, format!("expected an address that begins with https:// or http://, found {found}"));
        }
    }

    /// A table that was found right, as what it is.
    fn read<T: DeserializeOwned>(&mut self, path: &str, table: Table) -> Option<T> {
        T::deserialize(table).map_err(|e| self.problem(path, e.message().trim().to_owned())).ok()
    }

    /// Lays what the user says over the defaults, and checks it on the way.
    fn lay_over(&mut self, options: &[Opt], mut base: Table, user: Table, path: &str) -> Table {
        for option in options.iter().filter(|o| o.meta.required && !user.contains_key(o.name)) {
            self.problem_at(path, &join(path, option.name), "must be given".to_owned());
        }
        for (key, value) in user {
            let path = join(path, &key);
            let Some(option) = options.iter().find(|o| o.name == key) else {
                self.unknown(options, &path, &key);
                continue;
            };
            let laid = match (&option.shape, value) {
                (Shape::Value { words, check, .. }, value) => {
                    self.check(&path, option, words, *check, &value);
                    value
                }
                (Shape::Table { options, defaults }, Value::Table(user)) => {
                    let under = match base.remove(&key) {
                        Some(Value::Table(table)) => table,
                        _ => defaults(),
                    };
                    Value::Table(self.lay_over(&options(), under, user, &path))
                }
                (Shape::Tables { options, defaults }, Value::Array(items)) => {
                    Value::Array(self.lay_over_each(&options(), *defaults, items, &path))
                }
                (Shape::Table { .. }, _) => {
                    self.problem(&path, format!("expected a table ([{key}])"));
                    continue;
                }
                (Shape::Tables { .. }, _) => {
                    self.problem(&path, format!("expected tables written as [[{key}]]"));
                    continue;
                }
            };
            base.insert(key, laid);
        }
        base
    }

    fn lay_over_each(&mut self, options: &[Opt], defaults: fn() -> Table, items: Vec<Value>, path: &str) -> Vec<Value> {
        let mut laid = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{}]", i + 1);
            match item {
                Value::Table(user) => laid.push(Value::Table(self.lay_over(options, defaults(), user, &path))),
                _ => self.problem(&path, "expected a table".to_owned()),
            }
        }
        laid
    }

    fn check(&mut self, path: &str, option: &Opt, words: &str, check: fn(&Value) -> Result<(), String>, value: &Value) {
        if let Err(message) = check(value) {
            // A type that says itself what it expects is believed; serde's own words are replaced.
            let message = if message.starts_with("expected") && !message.contains("invalid") {
                message
            } else {
                // Of a list, the first item that is wrong.
                let item = value.as_array().and_then(|items| items.iter().find(|item| check(&one(item)).is_err()));
                let words = if item.is_some() { words.strip_prefix("list of: ").unwrap_or(words) } else { words };
                let value = item.unwrap_or(value);
                let hint = choice_hint(words, value);
                format!("expected {words}, found {}{hint}", brief(value))
            };
            self.problem(path, message);
            return;
        }
        let number = value.as_integer();
        if let (Some((least, greatest)), Some(number)) = (option.meta.range, number)
            && !(least..=greatest).contains(&number)
        {
            let unit = if option.meta.unit.is_empty() { String::new() } else { format!(" {}", option.meta.unit) };
            self.problem(path, format!("expected {least} to {greatest}{unit}, found {number}"));
        }
        let is_negative = option.meta.range.is_none() && number.is_some_and(|number| number < 0);
        if is_negative || value.as_float().is_some_and(|f| !f.is_finite() || f < 0.0) {
            self.problem(path, format!("expected a number that is not negative, found {value}"));
        }
    }

    fn unknown(&mut self, options: &[Opt], path: &str, key: &str) {
        let message = match nearest(key, options.iter().map(|o| o.name)) {
            Some(near) => format!("there is no such option; is `{near}` meant?"),
            None => {
                let known: Vec<&str> = options.iter().map(|o| o.name).collect();
                format!("there is no such option; here are: {}", known.join(", "))
            }
        };
        self.problem(path, message);
    }

    fn problem(&mut self, option: &str, message: String) {
        self.problem_at(option, option, message);
    }

    fn problem_at(&mut self, at: &str, option: &str, message: String) {
        self.problems.push(problem_at(&self.places, at, option, message));
    }
}

fn problem_at(places: &Places, at: &str, option: &str, message: String) -> Problem {
    let (place, position) = places.get(at).cloned().unwrap_or_else(|| ("configuration".to_owned(), None));
    Problem { place, position, option: option.to_owned(), message }
}

/// Names that are there more than once. Case does not tell hosts apart, so it does not tell servers apart.
fn twice<'a>(names: impl Iterator<Item = &'a OwnedServerName>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(name.as_str().to_ascii_lowercase())).map(ToString::to_string).collect()
}

/// Listeners whose address another one before them has taken, and that one.
fn listening_twice(listeners: &[Listener]) -> Vec<(usize, usize)> {
    let clash = |a: &SocketAddr, b: &SocketAddr| {
        a.port() == b.port()
            && a.port() != 0
            && a.is_ipv4() == b.is_ipv4()
            && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
    };
    let before = |i: usize, listener: &Listener| {
        listeners.iter().take(i).position(|other| clash(&listener.address, &other.address))
    };
    listeners.iter().enumerate().filter_map(|(i, listener)| Some((i, before(i, listener)?))).collect()
}

/// How the listener of this index, from 0, is called.
fn listener_option(index: usize) -> String {
    format!("listeners[{}]", index + 1)
}

/// All that may stand in the file, in the order of the reference.
pub(crate) fn all_options() -> Vec<Opt> {
    [Process::options(), TenantOptions::options(), Tenants::options()].concat()
}

/// Takes out the tables that both the whole file and one tenant may have.
fn tenant_options(table: &mut Table) -> Table {
    TenantOptions::options().iter().filter_map(|option| table.remove_entry(option.name)).collect()
}

/// The shape of an option named with dots, outside of lists.
fn find(path: &str) -> Option<Shape> {
    let mut options = all_options();
    let mut keys = path.split('.').peekable();
    while let Some(key) = keys.next() {
        let option = options.into_iter().find(|o| o.name == key)?;
        match option.shape {
            shape if keys.peek().is_none() => return Some(shape),
            Shape::Table { options: inner, .. } => options = inner(),
            _ => return None,
        }
    }
    None
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A list of one item.
fn one(item: &Value) -> Value {
    Value::Array(vec![item.clone()])
}

/// The option that is meant by a variable whose double underscores were written as single ones.
fn with_single_underscores(options: &[Opt], wrong: &str) -> Option<String> {
    options.iter().find_map(|option| match &option.shape {
        Shape::Table { options, .. } => {
            let rest = wrong.strip_prefix(option.name)?.strip_prefix('_')?;
            let inner = options();
            let found = inner.iter().find(|o| o.name == rest && !matches!(o.shape, Shape::Table { .. }));
            let found = found.map(|o| o.name.to_owned()).or_else(|| with_single_underscores(&inner, rest));
            found.map(|found| join(option.name, &found))
        }
        _ => None,
    })
}

/// Line and column (in characters) of a byte.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).map_or(0, |line| line.chars().count());
    (before.matches('\n').count() + 1, column + 1)
}
