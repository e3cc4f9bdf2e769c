//! What is on the disk: a configuration, and the tenants' databases.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use samtal_config::{Config, Problem, Source, Tenant};
use samtal_http::{Client, ClientOptions};
use samtal_kit::{Clock, Memory, Random};
use samtal_ops::Homeserver;

use crate::control::told;
use crate::lock::private_dir;
use crate::networks::Networks;
use crate::{Lock, ServerError, Tenants, settings};

/// A configuration and the right to open what it names.
#[derive(Debug)]
pub struct Installation {
    /// Where the configuration comes from, to read it again.
    pub source: Source,
    /// What it said last.
    pub config: Config,
    clock: Clock,
    random: Random,
    pub(crate) networks: Networks,
    /// What the caches of all tenants may hold together.
    pub(crate) memory: Memory,
    /// Nothing on PostgreSQL, where many processes may share the tenants.
    _lock: Option<Lock>,
}

impl Installation {
    /// Reads the configuration and takes its data directory.
    ///
    /// # Errors
    /// The configuration is wrong or names no tenant, or another process has the directory.
    pub fn take(source: Source, clock: Clock, random: Random) -> Result<Installation, ServerError> {
        let config = source.load()?;
        if config.tenants.is_empty() {
            return Err(ServerError::NoTenant);
        }
        plausible_clock(&clock)?;
        let data_dir = &config.process.server.data_dir;
        not_of_others(&config)?;
        let lock = Lock::take(data_dir)?;
        if lock.is_none() && config.process.database.url.is_none() {
            return Err(ServerError::InUse(data_dir.clone()));
        }
        let memory = Memory::new(usize::try_from(config.process.server.cache_bytes_max).unwrap_or(usize::MAX));
        Ok(Installation { source, config, clock, random, networks: Networks::default(), memory, _lock: lock })
    }

    /// Opens the files that the configuration names, as far as that says whether they can be used.
    ///
    /// # Errors
    /// What is wrong with each.
    pub fn examine(config: &Config) -> Result<(), Vec<Problem>> {
        let mut wrong: Vec<Problem> = Vec::new();
        let mut note = |option: &str, result: Result<(), ServerError>| {
            wrong.extend(result.err().map(|error| config.problem(option, told(&error))));
        };
        for (i, listener) in config.process.listeners.iter().enumerate() {
            let Some(tls) = &listener.tls else { continue };
            let files = crate::running::certificates_of(listener, tls);
            let loaded = samtal_http::Certificates::load(&files).map(drop);
            note(&format!("listeners[{}].tls", i + 1), loaded.map_err(ServerError::from));
        }
        note("outgoing.trusted_certificates", trusted(&config.process.outgoing.trusted_certificates));
        for tenant in &config.tenants {
            note("federation.trusted_certificates", trusted(&tenant.options.federation.trusted_certificates));
            note("federation.proxy", settings::proxy(tenant).map(drop));
            let registrations = settings::appservices(&config.process, tenant).map(drop);
            note("application_services.registrations", registrations.map_err(ServerError::from));
        }
        note("server.data_dir", not_of_others(config));
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Opens all tenants.
    ///
    /// # Errors
    /// One cannot be opened.
    pub async fn open(&self) -> Result<Tenants, ServerError> {
        let mut opened = Vec::new();
        for tenant in &self.config.tenants {
            opened.push((tenant.clone(), self.open_tenant(&self.config, tenant).await?));
        }
        Ok(Tenants::new(opened))
    }

    /// Opens one tenant.
    ///
    /// # Errors
    /// Its directory or its database cannot be opened.
    pub(crate) async fn open_tenant(&self, config: &Config, tenant: &Tenant) -> Result<Arc<Homeserver>, ServerError> {
        private_dir(&tenant.data_dir).map_err(|source| ServerError::Files { path: tenant.data_dir.clone(), source })?;
        note_clock_behind(&self.clock, &tenant.data_dir.join("samtal.db"));
        let database = settings::database(&config.process, tenant);
        let mut settings = settings::tenant(&config.process, tenant);
        settings.media.previews = settings::previews(&config.process, tenant);
        settings.web = settings::web(&config.process);
        settings.memory = self.memory.clone();
        settings.appservices = settings::appservices(&config.process, tenant)?;
        settings.federation.client.proxy = settings::proxy(tenant)?;
        let failed = |source| ServerError::Tenant { name: tenant.name.clone(), source };
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let network = self.networks.get(&tenant.options.federation, &settings.federation.client, &clock, &random);
        let network = network.map_err(|e| failed(e.into()))?;
        let homeserver = Homeserver::open_with(tenant.name.clone(), &database, settings, clock, random, network)
            .await
            .map_err(failed)?;
        if tenant.options.federation.enabled {
            self.networks.insert(&homeserver);
        }
        Ok(homeserver)
    }

    /// The clock that everything here uses.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The randomness that everything here uses.
    pub fn random(&self) -> &Random {
        &self.random
    }
}

/// Whether these hold certificates of authorities.
fn trusted(files: &[PathBuf]) -> Result<(), ServerError> {
    let options = ClientOptions { trusted_certificates: files.to_vec(), ..ClientOptions::default() };
    Client::new(&options)?;
    Ok(())
}

/// Says so if a file was written later than it is now. Nothing here relies on the clock for order, but what is sent
/// bears its time, and log-ins and keys end by it.
fn note_clock_behind(clock: &Clock, file: &Path) {
    let written = std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let Some(ahead) = written.and_then(|written| written.checked_sub(Duration::from_millis(clock.now_ms()))) else {
        return;
    };
    if ahead > Duration::from_secs(60) {
        tracing::warn!(file = %file.display(), behind_s = ahead.as_secs(), "the clock is behind what was written last");
    }
}

/// Milliseconds in a year, about.
const YEAR_MS: u64 = 31_556_952_000;

/// A clock of before this program was written is wrong.
fn plausible_clock(clock: &Clock) -> Result<(), ServerError> {
    let year = 1970 + clock.now_ms() / YEAR_MS;
    if year < 2026 { Err(ServerError::Clock { year }) } else { Ok(()) }
}

/// Refuses a data directory in which others than those that are wanted have data, and those have none: the name was
/// mistyped, or the directory was.
fn not_of_others(config: &Config) -> Result<(), ServerError> {
    let data_dir = &config.process.server.data_dir;
    if config.tenants.iter().any(|tenant| tenant.data_dir.exists()) {
        return Ok(());
    }
    let Ok(directories) = std::fs::read_dir(data_dir.join("tenants")) else { return Ok(()) };
    let mut found: Vec<String> =
        directories.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if found.is_empty() {
        return Ok(());
    }
    found.sort();
    let wanted = config.tenants.iter().map(|tenant| tenant.name.to_string()).collect();
    Err(ServerError::OtherNames { path: data_dir.clone(), found, wanted })
}
