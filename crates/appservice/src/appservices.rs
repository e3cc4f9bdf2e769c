//! The handle: which services there are.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use ruma::OwnedServerName;
use samtal_account::{AccountError, Accounts, Client as Caller, Kind, NewUser};
use samtal_db::{Batch, Db, DbError, params};
use samtal_e2ee::E2ee;
use samtal_edu::Edus;
use samtal_http::{Client, ClientOptions, TlsError};
use samtal_kit::{Clock, Tasks};
use samtal_room::Rooms;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Backoff, Registration, RegistrationError, Service,
    ask::{Line, Protocols},
    delivery::{Lane, cursor},
    schema,
};

/// What the operator decides.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The services that the configuration names.
    pub registrations: Vec<Registration>,
    /// Certificates and bounds of connections to them.
    pub client: ClientOptions,
    /// Pauses after failures.
    pub backoff: Backoff,
}

/// What the services are told from.
#[derive(Clone, Debug)]
pub struct Engines {
    /// Our name.
    pub name: OwnedServerName,
    /// The database.
    pub db: Db,
    /// Users and their devices.
    pub accounts: Arc<Accounts>,
    /// Events and who is in which room.
    pub rooms: Rooms,
    /// Receipts, typing, presence.
    pub edus: Arc<Edus>,
    /// Keys and messages of devices.
    pub e2ee: E2ee,
    /// The clock.
    pub clock: Clock,
    /// The group its tasks run in.
    pub tasks: Tasks,
}

/// Why the services could not be started, or one could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum AppserviceError {
    /// A registration is wrong.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// Two services have the same id, or the same token.
    #[error("application service {0}: its id or its token is another one's too")]
    Twice(String),
    /// It stands in the configuration, so it cannot be changed elsewhere.
    #[error("application service {0} stands in the configuration")]
    Configured(String),
    /// A certificate cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The account of its own user cannot be made.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The database.
    #[error("storage failed")]
    Storage(#[from] DbError),
}

/// All application services of a tenant. Cheap to clone.
#[derive(Clone)]
pub struct Appservices {
    inner: Arc<Inner>,
}

struct Inner {
    engines: Engines,
    line: Line,
    backoff: Backoff,
    services: RwLock<BTreeMap<String, Running>>,
    protocols: Protocols,
}

#[derive(Clone)]
struct Running {
    service: Arc<Service>,
    configured: bool,
    stop: CancellationToken,
    wake: Arc<Notify>,
}

impl std::fmt::Debug for Appservices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Appservices").field(&self.inner.services.read().keys()).finish()
    }
}

impl Appservices {
    /// The services that are configured and those that were added while running. None is told anything yet.
    pub async fn open(engines: Engines, options: Options) -> Result<Self, AppserviceError> {
        let line = Line { client: Client::new(&options.client)?, legacy: Arc::new(Mutex::new(HashSet::new())) };
        let inner = Inner {
            engines,
            line,
            backoff: options.backoff,
            services: RwLock::default(),
            protocols: Protocols::default(),
        };
        let services = Self { inner: Arc::new(inner) };
        services.configure(options.registrations).await?;
        for row in services.db().query(&schema::REGISTRATIONS, params![]).await? {
            let registration: Registration = match serde_json::from_str(row.text(1)?) {
                Ok(registration) => registration,
                Err(error) => {
                    tracing::error!(service = row.text(0)?, %error, "a stored registration cannot be read");
                    continue;
                }
            };
            if let Err(error) = services.insert(registration, false).await {
                tracing::error!(service = row.text(0)?, %error, "a stored registration cannot be used");
            }
        }
        Ok(services)
    }

    /// Replaces the services of the configuration: others come, go and change. Those that stay as they are go on.
    pub async fn configure(&self, registrations: Vec<Registration>) -> Result<(), AppserviceError> {
        let mut made = Vec::with_capacity(registrations.len());
        let mut seen = HashSet::new();
        for registration in registrations {
            if !seen.insert(registration.id.clone()) || !seen.insert(format!("token {}", registration.as_token)) {
                return Err(AppserviceError::Twice(registration.id));
            }
            made.push((registration.clone(), registration.service(&self.inner.engines.name)?));
        }
        let gone: Vec<String> = {
            let services = self.inner.services.read();
            services
                .iter()
                .filter(|(id, known)| known.configured && !seen.contains(*id))
                .map(|(id, _)| id.clone())
                .collect()
        };
        for id in gone {
            self.forget(&id).await?;
        }
        for (registration, _) in made {
            self.insert(registration, true).await?;
        }
        Ok(())
    }

    /// Takes in a service that the configuration does not name, or changes it. It is there after a restart too.
    pub async fn add(&self, registration: Registration) -> Result<(), AppserviceError> {
        let id = registration.id.clone();
        if self.inner.services.read().get(&id).is_some_and(|known| known.configured) {
            return Err(AppserviceError::Configured(id));
        }
        // A registration of ours always is JSON.
        let json = serde_json::to_string(&registration).unwrap_or_default();
        self.insert(registration, false).await?;
        let mut batch = Batch::new();
        batch.exec(&schema::REGISTRATION_SET, params![id, json]);
        self.db().commit(batch).await?;
        Ok(())
    }

    /// Lets go of a service that was added by [`Appservices::add`]. Whether there was one.
    pub async fn remove(&self, id: &str) -> Result<bool, AppserviceError> {
        match self.inner.services.read().get(id) {
            None => return Ok(false),
            Some(known) if known.configured => return Err(AppserviceError::Configured(id.to_owned())),
            Some(_) => {}
        }
        self.forget(id).await?;
        Ok(true)
    }

    async fn insert(&self, registration: Registration, configured: bool) -> Result<(), AppserviceError> {
        let service = Arc::new(registration.service(&self.inner.engines.name)?);
        let id = service.id().to_owned();
        let same_token = |known: &Running| known.service.account.token == service.account.token;
        if self.inner.services.read().iter().any(|(other, known)| *other != id && same_token(known)) {
            return Err(AppserviceError::Twice(id));
        }
        self.make_sender(&service).await?;
        let running = Running { service, configured, stop: CancellationToken::new(), wake: Arc::new(Notify::new()) };
        let before = self.inner.services.write().insert(id, running.clone());
        if let Some(before) = before {
            before.stop.cancel();
        }
        self.tell_accounts();
        self.start(running);
        Ok(())
    }

    /// The service's own user is there from the beginning: a service may act as it without registering it.
    async fn make_sender(&self, service: &Service) -> Result<(), AccountError> {
        let accounts = &self.inner.engines.accounts;
        if accounts.user(service.sender()).await?.is_some() {
            return Ok(());
        }
        let mut new = NewUser::normal(service.sender().clone());
        new.kind = Kind::Service;
        new.service = Some(service.id().to_owned());
        new.display_name = None;
        accounts.create(new, &Caller::default()).await?;
        Ok(())
    }

    fn start(&self, running: Running) {
        if running.service.url.is_none() {
            return;
        }
        let engines = self.inner.engines.clone();
        let tasks = engines.tasks.clone();
        let lane = Lane {
            engines,
            service: running.service,
            line: self.inner.line.clone(),
            backoff: self.inner.backoff,
            stop: running.stop,
            wake: running.wake,
        };
        tasks.spawn("application service", lane.run());
    }

    async fn forget(&self, id: &str) -> Result<(), AppserviceError> {
        let known = self.inner.services.write().remove(id);
        if let Some(known) = known {
            known.stop.cancel();
        }
        self.tell_accounts();
        let mut batch = Batch::new();
        batch.exec(&schema::TRANSACTION_DROP, params![id]);
        batch.exec(&schema::REGISTRATION_DROP, params![id]);
        batch.cursor_drop(&cursor(id));
        self.db().commit(batch).await?;
        Ok(())
    }

    fn tell_accounts(&self) {
        let services = self.inner.services.read().values().map(|known| known.service.account.clone()).collect();
        self.inner.engines.accounts.services.set(services);
    }

    /// All of them.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.inner.services.read().values().map(|known| Arc::clone(&known.service)).collect()
    }

    /// The service with this id.
    pub fn service(&self, id: &str) -> Option<Arc<Service>> {
        self.inner.services.read().get(id).map(|known| Arc::clone(&known.service))
    }

    /// Whether the service stands in the configuration.
    pub fn is_configured(&self, id: &str) -> bool {
        self.inner.services.read().get(id).is_some_and(|known| known.configured)
    }

    /// A service is there: what waits for it is sent at once.
    pub(crate) fn wake(&self, id: &str) {
        if let Some(known) = self.inner.services.read().get(id) {
            known.wake.notify_waiters();
        }
    }

    pub(crate) fn db(&self) -> &Db {
        &self.inner.engines.db
    }

    pub(crate) fn line(&self) -> &Line {
        &self.inner.line
    }

    pub(crate) fn known_protocols(&self) -> &Protocols {
        &self.inner.protocols
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.inner.engines.clock.now_ms()
    }
}
