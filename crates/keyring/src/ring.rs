//! The keyring of one tenant.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use parking_lot::RwLock;
use ruma::{
    OwnedServerName, ServerName,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet},
};
use samtal_db::{Batch, Db, DbError, params};
use samtal_event::json::JsonError;
use samtal_kit::{Cache, Clock, Random};

use crate::{
    document::{KeyDocument, KeyDocumentError},
    own::{OwnKey, OwnKeys},
    schema, store,
    validity::KnownKeys,
    xmatrix::{XMatrix, XMatrixError},
};

/// How long what we publish is valid.
const OWN_VALIDITY_MS: u64 = 24 * 3600 * 1000;
/// A server is asked at most so often
const ASKED_MAX: usize = 5;
/// in so long.
const ASK_AGAIN_MS: u64 = 10_000;
/// Servers asked at the same time for one caller.
const ASKED_AT_ONCE: usize = 16;
/// What a [`Turn`] takes in memory, with the mutex around it.
const TURN_BYTES: usize = 128;

/// Asks other servers for their keys. Each call is bounded in time by the one who implements it.
pub trait KeySource: Send + Sync {
    /// What the server itself publishes; nothing if it cannot be had.
    fn direct<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<String>>;

    /// What a notary says about the server; nothing if it cannot be had.
    fn notary<'a>(&'a self, notary: &'a ServerName, server: &'a ServerName) -> BoxFuture<'a, Vec<String>>;
}

/// A key somebody needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Whose.
    pub server: OwnedServerName,
    /// Its id.
    pub key_id: String,
    /// What for.
    pub purpose: Purpose,
}

/// What a key is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// A request that has just arrived.
    Request,
    /// An event with this `origin_server_ts`; `enforce` from room version 5 on.
    Event {
        /// ms since the epoch.
        ts_ms: u64,
        /// Whether the time is looked at.
        enforce: bool,
    },
}

/// A request as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    /// Its `Authorization` header.
    pub authorization: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Path and query, raw.
    pub uri: &'a str,
    /// The body, empty for none.
    pub content: &'a [u8],
}

/// Why the keyring failed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The database failed.
    #[error("storage failed")]
    Storage(#[from] DbError),
    /// A stored key of ours cannot be read, or there is none.
    #[error("the signing keys cannot be read")]
    Unreadable,
}

/// Why a request is not taken for what it says it is.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The header.
    #[error(transparent)]
    Header(#[from] XMatrixError),
    /// It is meant for another server.
    #[error("the request is for {0}")]
    Destination(OwnedServerName),
    /// The key cannot be had, or is not valid now.
    #[error("no valid key {key_id} of {server} is known")]
    Key {
        /// The server.
        server: OwnedServerName,
        /// The key.
        key_id: String,
    },
    /// The body is not JSON.
    #[error("the body cannot be read")]
    Body,
    /// The signature does not cover the request.
    #[error("the signature of {0} does not cover the request")]
    Signature(OwnedServerName),
    /// The keyring failed.
    #[error("the keyring failed")]
    Keyring(#[from] KeyError),
}

/// When a server was asked lately. One asks, the others wait.
type Turn = Arc<tokio::sync::Mutex<Vec<u64>>>;

/// The keyring of one tenant. Cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    clock: Clock,
    random: Random,
    server: OwnedServerName,
    notaries: Vec<OwnedServerName>,
    own: RwLock<Arc<OwnKeys>>,
    known: Cache<OwnedServerName, Arc<KnownKeys>>,
    asked: Cache<OwnedServerName, Turn>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({})", self.inner.server)
    }
}

impl Keyring {
    /// Opens the keyring of `server`, with a new key if it has none. `notaries` are asked when a server does not answer itself; their
    /// word is taken, so name only trusted ones.
    pub async fn open(
        db: Db,
        clock: Clock,
        random: Random,
        server: OwnedServerName,
        notaries: Vec<OwnedServerName>,
    ) -> Result<Self, KeyError> {
        let own = loop {
            if let Some(own) = read_own(&db).await? {
                break own;
            }
            let mut batch = Batch::new();
            batch.forbid(&schema::SIGNING_KEY_ANY, params![]);
            insert_key(&mut batch, &random, clock.now_ms());
            match db.commit(batch).await {
                Ok(_) | Err(DbError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let (known, asked) = (Cache::new(db.memory()), Cache::new(db.memory()));
        Ok(Self {
            inner: Arc::new(Inner {
                db,
                clock,
                random,
                server,
                notaries,
                own: RwLock::new(Arc::new(own)),
                known,
                asked,
            }),
        })
    }

    /// Our name.
    pub fn server(&self) -> &ServerName {
        &self.inner.server
    }

    /// Our keys.
    pub fn own(&self) -> Arc<OwnKeys> {
        self.inner.own.read().clone()
    }

    /// Makes a new key; those before it stay for what they signed.
    pub async fn rotate(&self) -> Result<(), KeyError> {
        let now_ms = self.inner.clock.now_ms();
        let mut batch = Batch::new();
        batch.exec(&schema::SIGNING_KEYS_EXPIRE, params![now_ms]);
        insert_key(&mut batch, &self.inner.random, now_ms);
        self.inner.db.commit(batch).await?;
        let own = read_own(&self.inner.db).await?.ok_or(KeyError::Unreadable)?;
        *self.inner.own.write() = Arc::new(own);
        Ok(())
    }

    /// What we publish, signed: the body of `GET /_matrix/key/v2/server`.
    pub fn own_document(&self) -> String {
        self.own().document(&self.inner.server, self.inner.clock.now_ms() + OWN_VALIDITY_MS)
    }

    /// Adds our signature to a JSON object.
    pub fn sign_object(&self, text: &str) -> Result<String, JsonError> {
        self.own().sign_object(&self.inner.server, text)
    }

    /// The header for a request of ours. `uri` is the raw path and query, `content` the JSON body or empty.
    pub fn sign_request(
        &self,
        destination: &ServerName,
        method: &str,
        uri: &str,
        content: &str,
    ) -> Result<XMatrix, JsonError> {
        XMatrix::sign(&self.inner.server, destination, self.own().current().pair(), method, uri, content)
    }

    /// Checks who sent a request.
    pub async fn verify_request(
        &self,
        request: SignedRequest<'_>,
        source: &dyn KeySource,
    ) -> Result<OwnedServerName, RequestError> {
        let header = XMatrix::parse(request.authorization)?;
        if let Some(destination) = header.destination.as_ref().filter(|name| **name != self.inner.server) {
            return Err(RequestError::Destination(destination.clone()));
        }
        let content = std::str::from_utf8(request.content).map_err(|_| RequestError::Body)?;
        let wanted = Wanted { server: header.origin.clone(), key_id: header.key.clone(), purpose: Purpose::Request };
        let keys = self.keys_for(std::slice::from_ref(&wanted), source).await?;
        let now_ms = self.inner.clock.now_ms();
        let Some(key) = keys.get(&wanted.server, &wanted.key_id).filter(|key| key.signs_request_at(now_ms)) else {
            return Err(RequestError::Key { server: wanted.server, key_id: wanted.key_id });
        };
        match header.verify(&self.inner.server, &key.public_key, request.method, request.uri, content) {
            Ok(true) => Ok(header.origin),
            Ok(false) => Err(RequestError::Signature(header.origin)),
            Err(_) => Err(RequestError::Body),
        }
    }

    /// All that is known of the servers `wanted` names, after asking for what is missing. Keys that cannot be had are not in the answer.
    pub async fn keys_for(&self, wanted: &[Wanted], source: &dyn KeySource) -> Result<KeySet, KeyError> {
        let mut keys = BTreeMap::new();
        let mut to_ask = BTreeSet::new();
        let now_ms = self.inner.clock.now_ms();
        for want in wanted {
            if !keys.contains_key(&want.server) {
                keys.insert(want.server.clone(), self.known(&want.server).await?);
            }
            if keys.get(&want.server).is_none_or(|known| !satisfies(known, want, now_ms)) {
                to_ask.insert(want.server.clone());
            }
        }
        to_ask.remove(&self.inner.server);
        let asked: Vec<_> = stream::iter(to_ask)
            .map(|server| async move { (server.clone(), self.ask(&server, source).await) })
            .buffer_unordered(ASKED_AT_ONCE)
            .collect()
            .await;
        for (server, answer) in asked {
            keys.insert(server, answer?);
        }
        Ok(KeySet(keys))
    }

    /// What we answer as notary: the server's documents that have these keys (all, if none is named) with our signature added. They are
    /// asked for anew when ours would not be valid at `valid_at_ms` or have lived half their life. A dead server's last word is served
    /// on, and so is that of one that has forgotten a key.
    pub async fn notarized(
        &self,
        server: &ServerName,
        key_ids: &[String],
        valid_at_ms: Option<u64>,
        source: &dyn KeySource,
    ) -> Result<Vec<String>, KeyError> {
        if server == self.inner.server {
            return Ok(vec![self.own_document()]);
        }
        let now_ms = self.inner.clock.now_ms();
        let wanted_ms = valid_at_ms.unwrap_or(now_ms);
        let good = |stored: &store::StoredDocument| stored.valid_until_ms >= wanted_ms && stored.is_fresh(now_ms);
        let is_told = |stored: &[store::StoredDocument]| match key_ids {
            [] => stored.first().is_some_and(good),
            ids => ids.iter().all(|id| stored.iter().find(|stored| stored.key_ids.contains(id)).is_some_and(good)),
        };
        let mut stored = store::documents(&self.inner.db, server).await?;
        if !is_told(&stored) {
            self.ask(server, source).await?;
            stored = store::documents(&self.inner.db, server).await?;
        }
        // Of each key the newest that names it.
        let mut wanted: BTreeSet<&String> = key_ids.iter().collect();
        stored.retain(|stored| {
            let before = wanted.len();
            wanted.retain(|id| !stored.key_ids.contains(*id));
            key_ids.is_empty() || wanted.len() < before
        });
        Ok(stored.iter().filter_map(|stored| self.sign_object(&stored.text).ok()).collect())
    }

    /// Takes a document a server gave of itself.
    pub async fn learn(&self, document: &KeyDocument) -> Result<Arc<KnownKeys>, KeyError> {
        let now_ms = self.inner.clock.now_ms();
        let mut keys = (*self.known(&document.server).await?).clone();
        let newer = document.keys_at(now_ms);
        let gone = keys.absorb(newer.clone());
        store::keep(&self.inner.db, document, &newer, &gone, now_ms).await?;
        Ok(self.remember(&document.server, keys))
    }

    async fn known(&self, server: &ServerName) -> Result<Arc<KnownKeys>, KeyError> {
        if server == self.inner.server {
            return Ok(Arc::new(self.own_as_known()));
        }
        if let Some(keys) = self.inner.known.get(server) {
            return Ok(keys);
        }
        Ok(self.remember(server, store::keys(&self.inner.db, server).await?))
    }

    fn remember(&self, server: &ServerName, keys: KnownKeys) -> Arc<KnownKeys> {
        let bytes = server.as_str().len() + keys.bytes();
        let keys = Arc::new(keys);
        self.inner.known.put(server.to_owned(), Arc::clone(&keys), bytes);
        keys
    }

    fn own_as_known(&self) -> KnownKeys {
        let mut known = KnownKeys::default();
        for key in self.own().iter() {
            let valid_until_ms = if key.expired_ms.is_none() { u64::MAX } else { 0 };
            known.insert(
                key.id(),
                crate::KnownKey { public_key: key.public_key(), valid_until_ms, expired_ms: key.expired_ms },
            );
        }
        known
    }

    /// Asks the server, then the notaries. One asks, the others wait for its answer.
    async fn ask(&self, server: &ServerName, source: &dyn KeySource) -> Result<Arc<KnownKeys>, KeyError> {
        let bytes = server.as_str().len() + TURN_BYTES;
        let turn = self.inner.asked.get_or_put(&server.to_owned(), || (Arc::default(), bytes));
        let mut lately = turn.lock().await;
        let now_ms = self.inner.clock.now_ms();
        lately.retain(|asked_ms| now_ms < asked_ms.saturating_add(ASK_AGAIN_MS));
        if lately.len() >= ASKED_MAX {
            return self.known(server).await;
        }
        lately.push(now_ms);
        if let Some(text) = source.direct(server).await {
            match KeyDocument::parse(&text, Some(server)) {
                Ok(document) => return self.learn(&document).await,
                Err(error) => tracing::info!(%server, %error, "keys refused"),
            }
        }
        for notary in self.inner.notaries.iter().filter(|notary| *notary != server && **notary != self.inner.server) {
            let notary_keys = match source.direct(notary).await.map(|text| KeyDocument::parse(&text, Some(notary))) {
                Some(Ok(document)) => document.keys,
                _ => continue,
            };
            for text in source.notary(notary, server).await {
                match KeyDocument::parse(&text, Some(server)) {
                    Ok(document) if signed_by(&document.text, notary, &notary_keys) => {
                        return self.learn(&document).await;
                    }
                    Ok(_) => tracing::info!(%server, %notary, "the notary did not sign"),
                    Err(error @ KeyDocumentError::OtherServer(_)) => {
                        tracing::debug!(%server, %notary, %error, "more keys than asked")
                    }
                    Err(error) => tracing::info!(%server, %notary, %error, "keys refused"),
                }
            }
        }
        self.known(server).await
    }
}

/// Keys of several servers.
#[derive(Clone, Debug, Default)]
pub struct KeySet(BTreeMap<OwnedServerName, Arc<KnownKeys>>);

impl KeySet {
    /// One key.
    pub fn get(&self, server: &ServerName, key_id: &str) -> Option<&crate::KnownKey> {
        self.0.get(server)?.get(key_id)
    }

    /// As [`Self::for_event`], of these servers only.
    pub fn of_servers<'a>(
        &self,
        servers: impl IntoIterator<Item = &'a ServerName>,
        ts_ms: u64,
        enforce: bool,
    ) -> PublicKeyMap {
        let mut map = PublicKeyMap::new();
        for server in servers {
            let Some(keys) = self.0.get(server) else { continue };
            let valid = valid_for_event(keys, ts_ms, enforce);
            if !valid.is_empty() {
                map.insert(server.to_string(), valid);
            }
        }
        map
    }

    /// The keys that may have signed an event with this `origin_server_ts`, as ruma's verification takes them.
    pub fn for_event(&self, ts_ms: u64, enforce: bool) -> PublicKeyMap {
        self.of_servers(self.0.keys().map(|server| &**server), ts_ms, enforce)
    }
}

fn valid_for_event(keys: &KnownKeys, ts_ms: u64, enforce: bool) -> PublicKeySet {
    let valid = keys.iter().filter(|(_, key)| key.signs_event_at(ts_ms, enforce));
    valid.map(|(id, key)| (id.to_owned(), Base64::new(key.public_key.to_vec()))).collect()
}

fn satisfies(known: &KnownKeys, want: &Wanted, now_ms: u64) -> bool {
    known.get(&want.key_id).is_some_and(|key| match want.purpose {
        Purpose::Request => key.signs_request_at(now_ms),
        // An expired key will not come back, so asking again is of no use.
        Purpose::Event { ts_ms, enforce } => key.expired_ms.is_some() || key.signs_event_at(ts_ms, enforce),
    })
}

fn signed_by(document: &str, server: &ServerName, keys: &KnownKeys) -> bool {
    use samtal_event::json::{Numbers, Value, parse_object};
    let Ok(mut object) = parse_object(document, Numbers::Lax) else { return false };
    let signatures: Vec<(String, Vec<u8>)> = object
        .get("signatures")
        .and_then(Value::as_object)
        .and_then(|all| all.get(server.as_str()))
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|ids| ids.iter())
        .filter_map(|(id, signature)| Some((id.to_owned(), crate::signed::base64(signature.as_str()?)?)))
        .collect();
    let bytes = crate::signed::bytes_of(&mut object);
    signatures.iter().any(|(id, signature)| {
        keys.get(id).is_some_and(|key| {
            key.expired_ms.is_none() && crate::signed::verifies(&key.public_key, signature, bytes.as_bytes())
        })
    })
}

fn insert_key(batch: &mut Batch, random: &Random, now_ms: u64) {
    let id = format!("ed25519:{}", random.alphanumeric(6));
    batch.exec(&schema::SIGNING_KEY_INSERT, params![id, random.bytes::<32>(), now_ms]);
}

async fn read_own(db: &Db) -> Result<Option<OwnKeys>, KeyError> {
    let mut keys = Vec::new();
    for row in db.query(&schema::SIGNING_KEYS, params![]).await? {
        let seed = row.blob(1)?.try_into().map_err(|_| KeyError::Unreadable)?;
        let ms = |value: i64| u64::try_from(value).unwrap_or(0);
        let key = OwnKey::from_seed(row.text(0)?, seed, ms(row.int(2)?), row.opt_int(3)?.map(ms));
        keys.push(key.ok_or(KeyError::Unreadable)?);
    }
    Ok(OwnKeys::new(keys))
}

#[cfg(test)]
mod tests;
