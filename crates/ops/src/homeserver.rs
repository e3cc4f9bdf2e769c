//! One tenant: its name, its database and its engines.

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};
use samtal_account::Accounts;
use samtal_appservice::{AppserviceError, Appservices};
use samtal_db::{Db, DbError, Schema};
use samtal_e2ee::E2ee;
use samtal_edu::Edus;
use samtal_jobs::Jobs;
use samtal_keyring::{KeyError, Keyring};
use samtal_kit::{Clock, Limiter, Random, Tasks};
use samtal_media::{Media, MediaError};
use samtal_policy::{Policy, Rulebook};
use samtal_push::{Delivery, DeliveryEngines, HttpGateway, MailRound, Push, Pushers};
use samtal_remote::{Destinations, Internet, Network, Remote, SetupError};
use samtal_room::{RoomError, Rooms};
use samtal_search::Search;
use samtal_sender::{Sender, SenderError};
use samtal_sync::Sync;

use crate::{Settings, inbound::Inbound, policy_server::PolicyServers, remote_file::RemoteFiles};

/// The tables of all engines, in the order in which they are made.
const SCHEMAS: &[Schema] = &[
    samtal_account::SCHEMA,
    samtal_keyring::SCHEMA,
    samtal_policy::SCHEMA,
    samtal_remote::SCHEMA,
    samtal_room::SCHEMA,
    samtal_edu::SCHEMA,
    samtal_e2ee::SCHEMA,
    samtal_push::SCHEMA,
    samtal_media::SCHEMA,
    samtal_sender::SCHEMA,
    samtal_search::SCHEMA,
    samtal_appservice::SCHEMA,
    samtal_jobs::SCHEMA,
];

/// One tenant. There is no other state: two tenants in one process know each other only through federation.
#[derive(Debug)]
pub struct Homeserver {
    /// Its server name.
    pub name: OwnedServerName,
    /// Its database.
    pub db: Db,
    /// The clock.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// Its background tasks.
    pub tasks: Tasks,
    /// What the operator decided.
    pub settings: Settings,
    /// How often who may do what.
    pub limiter: Limiter,
    /// Users, devices, sessions, profiles, account data, push rules.
    pub accounts: Arc<Accounts>,
    /// What may pass between us and other servers.
    pub policy: Policy,
    /// The rules for that which are stored, and what was refused.
    pub rulebook: Rulebook,
    /// Signing keys, ours and others'.
    pub keyring: Keyring,
    /// Speaking to other servers.
    pub remote: Remote,
    /// HTTP to others than federation peers, as users name them: identity servers.
    pub web: samtal_http::Client,
    /// Rooms: the event graph and what may be read of it.
    pub rooms: Rooms,
    /// Receipts, typing, presence.
    pub edus: Arc<Edus>,
    /// Keys and messages of devices.
    pub e2ee: E2ee,
    /// Files.
    pub media: Media,
    /// What is unread.
    pub push: Arc<Push>,
    /// Whom to tell of it.
    pub pushers: Pushers,
    /// Getting changes to people.
    pub sync: Arc<Sync>,
    /// Finding messages and people.
    pub search: Arc<Search>,
    /// Bridges and bots.
    pub appservices: Appservices,
    /// What is to be done later.
    pub jobs: Jobs,
    /// Telling other servers.
    pub sender: Sender,
    pub(crate) inbound: Inbound,
    pub(crate) remote_files: RemoteFiles,
    /// Whose turn it is to make a notice room.
    pub(crate) notice_turn: tokio::sync::Mutex<()>,
}

/// Why a tenant could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database cannot be opened.
    #[error("database: {0}")]
    Database(#[from] DbError),
    /// The signing keys cannot be had.
    #[error("signing keys: {0}")]
    Keys(#[from] KeyError),
    /// The place for files cannot be opened.
    #[error("files: {0}")]
    Media(#[from] MediaError),
    /// The accounts cannot be read.
    #[error("accounts: {0}")]
    Accounts(#[from] samtal_account::AccountError),
    /// The rooms cannot be opened.
    #[error("rooms: {0}")]
    Rooms(#[from] RoomError),
    /// Other servers cannot be spoken to.
    #[error("network: {0}")]
    Network(#[from] SetupError),
    /// Certificates that are trusted cannot be read.
    #[error("certificates: {0}")]
    Certificates(#[from] samtal_http::TlsError),
    /// A registration of an application service cannot be used.
    #[error(transparent)]
    Appservices(#[from] AppserviceError),
    /// Outgoing federation cannot go on where it stopped.
    #[error("outgoing federation: {0}")]
    Sender(#[from] SenderError),
}

impl Homeserver {
    /// Opens the tenant's database, migrates it, and starts what follows its change log. Other servers are reached over the Internet.
    pub async fn open(
        name: OwnedServerName,
        database: &samtal_db::Options,
        settings: Settings,
        clock: Clock,
        random: Random,
    ) -> Result<Arc<Self>, OpenError> {
        let network = Internet::new(&settings.federation.client, clock.clone(), random.clone())?;
        Self::open_with(name, database, settings, clock, random, Arc::new(network)).await
    }

    /// As [`Self::open`], over a network of the caller's: one shared by the tenants of a process, or a simulated one.
    pub async fn open_with(
        name: OwnedServerName,
        database: &samtal_db::Options,
        settings: Settings,
        clock: Clock,
        random: Random,
        network: Arc<dyn Network>,
    ) -> Result<Arc<Self>, OpenError> {
        let db = Db::open_within(database, SCHEMAS, &settings.memory).await?;
        // Boxed: it holds all engines on its way, and many futures hold it.
        Box::pin(Self::over(name, db, settings, clock, random, network)).await
    }

    /// Opens a tenant's database and brings its tables up to date.
    pub async fn open_database(database: &samtal_db::Options) -> Result<Db, OpenError> {
        Ok(Db::open(database, SCHEMAS).await?)
    }

    /// As [`Self::open_with`], over a database that is open.
    pub async fn over(
        name: OwnedServerName,
        db: Db,
        settings: Settings,
        clock: Clock,
        random: Random,
        network: Arc<dyn Network>,
    ) -> Result<Arc<Self>, OpenError> {
        let limiter = Limiter::new(clock.clone());
        let inbound = Inbound::new(db.memory());
        let accounts =
            Accounts::new(name.clone(), db.clone(), clock.clone(), random.clone(), settings.accounts.clone());
        let accounts = Arc::new(accounts);
        accounts.load_rates().await?;
        let policy = Policy::new(settings.federation.policy.clone());
        let rulebook = Rulebook::open(db.clone(), clock.clone(), policy.clone()).await?;
        let key_servers = settings.federation.key_servers.clone();
        let keyring = Keyring::open(db.clone(), clock.clone(), random.clone(), name.clone(), key_servers).await?;
        let destinations = Destinations::open(db.clone(), clock.clone(), random.clone()).await?;
        let remote = Remote::new(keyring.clone(), policy.clone(), network, destinations, clock.clone());
        let tasks = Tasks::new();
        let keys = keyring.clone();
        let options = samtal_room::Options {
            name: name.clone(),
            signing_keys: Arc::new(move || keys.own()),
            clock: clock.clone(),
            random: random.clone(),
            tasks: tasks.clone(),
        };
        let web = samtal_http::Client::new(&settings.web)?;
        let rooms = Rooms::open(db.clone(), options).await?;
        rooms.set_policy_source(Arc::new(PolicyServers(remote.clone())));
        rooms.store().erasures.add(accounts.erased().await?);
        let edus = Arc::new(Edus::new(db.clone(), &clock, settings.presence));
        let e2ee = E2ee::new(db.clone(), clock.clone());
        let media = Media::open(name.clone(), db.clone(), clock.clone(), random.clone(), settings.media.clone())?;
        let push = Arc::new(Push::new(rooms.clone(), Arc::clone(&accounts), Arc::clone(&edus)));
        let pushers = Pushers::new(db.clone(), clock.clone());
        let delivery = Delivery::new(DeliveryEngines {
            mail: mail_round(&settings, &name),
            push: Arc::clone(&push),
            pushers: pushers.clone(),
            rooms: rooms.clone(),
            accounts: Arc::clone(&accounts),
            gateway: Arc::new(HttpGateway::new(samtal_http::Client::new(&settings.web)?)),
            random: random.clone(),
            tasks: tasks.clone(),
        });
        let sync = Arc::new(Sync::new(samtal_sync::Engines {
            db: db.clone(),
            rooms: rooms.clone(),
            accounts: Arc::clone(&accounts),
            edus: Arc::clone(&edus),
            e2ee: e2ee.clone(),
            push: Arc::clone(&push),
            clock: clock.clone(),
            tasks: tasks.clone(),
        }));
        let sender = Sender::new(samtal_sender::Engines {
            name: name.clone(),
            db: db.clone(),
            rooms: rooms.clone(),
            accounts: Arc::clone(&accounts),
            device_names: settings.federation.device_names,
            e2ee: e2ee.clone(),
            edus: Arc::clone(&edus),
            remote: remote.clone(),
            policy: policy.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
        });
        let engines = samtal_appservice::Engines {
            name: name.clone(),
            db: db.clone(),
            accounts: Arc::clone(&accounts),
            rooms: rooms.clone(),
            edus: Arc::clone(&edus),
            e2ee: e2ee.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
        };
        let jobs = Jobs::new(db.clone(), clock.clone(), random.clone());
        let appservices = Appservices::open(engines, settings.appservices.clone()).await?;
        let search = samtal_search::Engines {
            name: name.clone(),
            db: db.clone(),
            rooms: rooms.clone(),
            accounts: Arc::clone(&accounts),
            clock: clock.clone(),
            tasks: tasks.clone(),
        };
        let search = Arc::new(Search::new(search, settings.search.clone()));
        let remote_files = RemoteFiles::new(media.clone(), remote.clone(), tasks.clone());
        let hs = Arc::new(Self {
            name,
            db,
            clock,
            random,
            tasks,
            settings,
            limiter,
            accounts,
            policy,
            rulebook,
            keyring,
            remote,
            web,
            rooms,
            edus,
            e2ee,
            media,
            push,
            pushers,
            sync,
            search,
            appservices,
            jobs,
            sender,
            inbound,
            remote_files,
            notice_turn: tokio::sync::Mutex::default(),
        });
        hs.start(delivery).await?;
        Ok(hs)
    }

    /// Starts what follows the change log, and what is done now and then.
    async fn start(self: &Arc<Self>, delivery: Arc<Delivery>) -> Result<(), OpenError> {
        if self.settings.federation.enabled {
            self.sender.start().await?;
            self.tasks.spawn("device lists", Arc::clone(self).forget_lists());
        }
        self.follow();
        self.tasks.spawn("federation rules", self.rulebook.clone().run(self.tasks.clone()));
        self.tasks.spawn("push", delivery.run());
        self.tasks.spawn("company", Arc::clone(self).follow_company());
        self.tasks.spawn("files", Arc::clone(self).clean_files());
        self.tasks.spawn("change log", Arc::clone(self).keep_log_short());
        self.tasks.spawn("delayed events", Arc::clone(self).follow_delayed_events());
        self.tasks.spawn("member tasks", Arc::clone(self).follow_member_tasks());
        self.tasks.spawn("room tasks", Arc::clone(self).follow_room_tasks());
        self.tasks.spawn("room states", Arc::clone(self).follow_partial_rooms());
        let rooms = self.rooms.clone();
        self.tasks.spawn("settling", async move { rooms.settle_all().await });
        Ok(())
    }

    /// Starts what follows the change log or the clock.
    fn follow(&self) {
        let sync = Arc::clone(&self.sync);
        self.tasks.spawn("sync", async move { sync.run().await });
        let search = Arc::clone(&self.search);
        self.tasks.spawn("search", async move { search.run().await });
        let (edus, tasks) = (Arc::clone(&self.edus), self.tasks.clone());
        self.tasks.spawn("edus", async move { edus.run(&tasks).await });
    }
}

/// How unread messages are told of by mail, if they are.
fn mail_round(settings: &Settings, name: &ServerName) -> Option<MailRound> {
    let mail = settings.mail.clone()?;
    let how = mail.notifications?;
    Some(MailRound {
        mailer: Arc::new(mail),
        delay: how.delay,
        pause: how.pause,
        base_url: settings.public_base_url.clone(),
        server_name: name.to_string(),
    })
}
