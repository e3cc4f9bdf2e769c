//! One tenant: its name, its database and its engines.

mod engines;

use std::sync::Arc;

use ruma::OwnedServerName;
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
use samtal_push::{Delivery, Push, Pushers};
use samtal_remote::{Internet, Network, Remote, SetupError};
use samtal_room::{RoomError, Rooms};
use samtal_search::Search;
use samtal_sender::{Sender, SenderError};
use samtal_sync::Sync;

use self::engines::{Borders, Engines, Ground};
use crate::{Settings, inbound::Inbound, remote_file::RemoteFiles};

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
        let ground = Ground { name, db, clock, random, tasks: Tasks::new() };
        let accounts = ground.accounts(&settings).await?;
        let borders = ground.borders(&settings, network).await?;
        let rooms = ground.rooms(&borders, &accounts).await?;
        let media = ground.media(&settings)?;
        let edus = Arc::new(Edus::new(ground.db.clone(), &ground.clock, settings.presence));
        let e2ee = E2ee::new(ground.db.clone(), ground.clock.clone());
        let push = Arc::new(Push::new(rooms.clone(), Arc::clone(&accounts), Arc::clone(&edus)));
        let pushers = Pushers::new(ground.db.clone(), ground.clock.clone());
        let web = samtal_http::Client::new(&settings.web)?;
        let engines = Engines { ground, accounts, rooms, edus, e2ee, push };
        let delivery = engines.delivery(&settings, &pushers)?;
        let sync = engines.sync();
        let sender = engines.sender(&settings, &borders);
        let appservices = engines.appservices(&settings).await?;
        let search = engines.search(&settings);
        let Engines { ground, accounts, rooms, edus, e2ee, push } = engines;
        let Ground { name, db, clock, random, tasks } = ground;
        let Borders { policy, rulebook, keyring, remote } = borders;
        let hs = Arc::new(Self {
            limiter: Limiter::new(clock.clone()),
            inbound: Inbound::new(db.memory()),
            jobs: Jobs::new(db.clone(), clock.clone(), random.clone()),
            remote_files: RemoteFiles::new(media.clone(), remote.clone(), tasks.clone()),
            name,
            db,
            clock,
            random,
            tasks,
            settings,
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
            sender,
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
        if self.media.options().thumbnails_ahead {
            let (tasks, making) = (self.tasks.clone(), self.media.thumbnails_ahead());
            self.tasks.spawn("smaller pictures", async move {
                tokio::select! {
                    () = tasks.stopping() => {}
                    () = making => {}
                }
            });
        }
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
