//! How a tenant is put together: its engines over its database, and its followers over these.

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};
use samtal_account::Accounts;
use samtal_appservice::Appservices;
use samtal_db::Db;
use samtal_e2ee::E2ee;
use samtal_edu::Edus;
use samtal_keyring::Keyring;
use samtal_kit::{Clock, Random, Tasks};
use samtal_media::Media;
use samtal_policy::{Policy, Rulebook};
use samtal_push::{Delivery, DeliveryEngines, HttpGateway, MailRound, Push, Pushers};
use samtal_remote::{Destinations, Network, Remote};
use samtal_room::Rooms;
use samtal_search::Search;
use samtal_sender::Sender;
use samtal_sync::Sync;

use super::OpenError;
use crate::{Settings, policy_server::PolicyServers};

/// What all of a tenant stands on.
pub(super) struct Ground {
    pub(super) name: OwnedServerName,
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) tasks: Tasks,
}

/// What stands between the tenant and other servers.
pub(super) struct Borders {
    pub(super) policy: Policy,
    pub(super) rulebook: Rulebook,
    pub(super) keyring: Keyring,
    pub(super) remote: Remote,
}

/// What followers look into.
pub(super) struct Engines {
    pub(super) ground: Ground,
    pub(super) accounts: Arc<Accounts>,
    pub(super) rooms: Rooms,
    pub(super) edus: Arc<Edus>,
    pub(super) e2ee: E2ee,
    pub(super) push: Arc<Push>,
}

impl Ground {
    pub(super) async fn accounts(&self, settings: &Settings) -> Result<Arc<Accounts>, OpenError> {
        let Self { name, db, clock, random, .. } = self;
        let accounts =
            Accounts::new(name.clone(), db.clone(), clock.clone(), random.clone(), settings.accounts.clone());
        accounts.load_rates().await?;
        Ok(Arc::new(accounts))
    }

    pub(super) async fn borders(&self, settings: &Settings, network: Arc<dyn Network>) -> Result<Borders, OpenError> {
        let Self { name, db, clock, random, .. } = self;
        let policy = Policy::new(settings.federation.policy.clone());
        let rulebook = Rulebook::open(db.clone(), clock.clone(), policy.clone()).await?;
        let key_servers = settings.federation.key_servers.clone();
        let keyring = Keyring::open(db.clone(), clock.clone(), random.clone(), name.clone(), key_servers).await?;
        let destinations = Destinations::open(db.clone(), clock.clone(), random.clone()).await?;
        let remote = Remote::new(keyring.clone(), policy.clone(), network, destinations, clock.clone());
        Ok(Borders { policy, rulebook, keyring, remote })
    }

    pub(super) async fn rooms(&self, borders: &Borders, accounts: &Accounts) -> Result<Rooms, OpenError> {
        let keys = borders.keyring.clone();
        let options = samtal_room::Options {
            name: self.name.clone(),
            signing_keys: Arc::new(move || keys.own()),
            clock: self.clock.clone(),
            random: self.random.clone(),
            tasks: self.tasks.clone(),
        };
        let rooms = Rooms::open(self.db.clone(), options).await?;
        rooms.set_policy_source(Arc::new(PolicyServers(borders.remote.clone())));
        rooms.store().erasures.add(accounts.erased().await?);
        Ok(rooms)
    }

    pub(super) fn media(&self, settings: &Settings) -> Result<Media, OpenError> {
        let Self { name, db, clock, random, .. } = self;
        Ok(Media::open(name.clone(), db.clone(), clock.clone(), random.clone(), settings.media.clone())?)
    }
}

impl Engines {
    pub(super) fn delivery(&self, settings: &Settings, pushers: &Pushers) -> Result<Arc<Delivery>, OpenError> {
        Ok(Delivery::new(DeliveryEngines {
            mail: mail_round(settings, &self.ground.name),
            push: Arc::clone(&self.push),
            pushers: pushers.clone(),
            rooms: self.rooms.clone(),
            accounts: Arc::clone(&self.accounts),
            gateway: Arc::new(HttpGateway::new(samtal_http::Client::new(&settings.web)?)),
            random: self.ground.random.clone(),
            tasks: self.ground.tasks.clone(),
        }))
    }

    pub(super) fn sync(&self) -> Arc<Sync> {
        Arc::new(Sync::new(samtal_sync::Engines {
            db: self.ground.db.clone(),
            rooms: self.rooms.clone(),
            accounts: Arc::clone(&self.accounts),
            edus: Arc::clone(&self.edus),
            e2ee: self.e2ee.clone(),
            push: Arc::clone(&self.push),
            clock: self.ground.clock.clone(),
            tasks: self.ground.tasks.clone(),
        }))
    }

    pub(super) fn sender(&self, settings: &Settings, borders: &Borders) -> Sender {
        Sender::new(samtal_sender::Engines {
            name: self.ground.name.clone(),
            db: self.ground.db.clone(),
            rooms: self.rooms.clone(),
            accounts: Arc::clone(&self.accounts),
            device_names: settings.federation.device_names,
            e2ee: self.e2ee.clone(),
            edus: Arc::clone(&self.edus),
            remote: borders.remote.clone(),
            policy: borders.policy.clone(),
            clock: self.ground.clock.clone(),
            tasks: self.ground.tasks.clone(),
        })
    }

    pub(super) async fn appservices(&self, settings: &Settings) -> Result<Appservices, OpenError> {
        let engines = samtal_appservice::Engines {
            name: self.ground.name.clone(),
            db: self.ground.db.clone(),
            accounts: Arc::clone(&self.accounts),
            rooms: self.rooms.clone(),
            edus: Arc::clone(&self.edus),
            e2ee: self.e2ee.clone(),
            clock: self.ground.clock.clone(),
            tasks: self.ground.tasks.clone(),
        };
        Ok(Appservices::open(engines, settings.appservices.clone()).await?)
    }

    pub(super) fn search(&self, settings: &Settings) -> Arc<Search> {
        let engines = samtal_search::Engines {
            name: self.ground.name.clone(),
            db: self.ground.db.clone(),
            rooms: self.rooms.clone(),
            accounts: Arc::clone(&self.accounts),
            clock: self.ground.clock.clone(),
            tasks: self.ground.tasks.clone(),
        };
        Arc::new(Search::new(engines, settings.search.clone()))
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
