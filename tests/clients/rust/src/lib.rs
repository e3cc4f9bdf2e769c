//! What the tests with matrix-sdk share: people with clients that sync in the background.
//!
//! The homeserver is the one at `SAMTAL_URL`, with open registration. What is waited for is a
//! condition, looked at again until it holds or the patience ends.

// The SDK's futures are deep.
#![recursion_limit = "256"]

pub mod verification;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use matrix_sdk::config::SyncSettings;
use matrix_sdk::deserialized_responses::EncryptionInfo;
use matrix_sdk::encryption::{BackupDownloadStrategy, EncryptionSettings};
use matrix_sdk::ruma::api::client::account::register::v3::Request as Register;
use matrix_sdk::ruma::api::client::filter::{FilterDefinition, RoomEventFilter, RoomFilter};
use matrix_sdk::ruma::api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset};
use matrix_sdk::ruma::api::client::uiaa::{AuthData, Dummy};
use matrix_sdk::ruma::events::InitialStateEvent;
use matrix_sdk::ruma::events::room::encryption::RoomEncryptionEventContent;
use matrix_sdk::ruma::events::room::message::{OriginalSyncRoomMessageEvent, RoomMessageEventContent};
use matrix_sdk::ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId, assign, uint};
use matrix_sdk::{AuthSession, Client, Room, RoomState};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The password of everybody.
pub const PASSWORD: &str = "correct horse battery staple";
/// How long a condition is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A message that a client has seen in its sync, in clear text.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Where.
    pub room_id: OwnedRoomId,
    /// Which.
    pub event_id: OwnedEventId,
    /// From whom.
    pub sender: OwnedUserId,
    /// The text.
    pub body: String,
    /// Whether it came encrypted.
    pub encrypted: bool,
}

/// One device of somebody.
pub struct Device {
    /// The client.
    pub client: Client,
    seen: watch::Receiver<Vec<Seen>>,
    sync: Option<JoinHandle<()>>,
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(sync) = &self.sync {
            sync.abort();
        }
    }
}

/// The homeserver's base URL.
pub fn homeserver() -> String {
    std::env::var("SAMTAL_URL").expect("SAMTAL_URL is the base URL of a homeserver with open registration")
}

/// The base URL of another homeserver, which federates with the first.
pub fn other_homeserver() -> String {
    std::env::var("SAMTAL_OTHER_URL").expect("SAMTAL_OTHER_URL is the base URL of another homeserver")
}

/// A client of nobody yet, which keeps its things in a directory, or in memory.
async fn anonymous(homeserver: &str, directory: Option<&Path>) -> Result<Client> {
    let mut builder = Client::builder();
    if let Some(directory) = directory {
        builder = builder.sqlite_store(directory, None);
    }
    Ok(builder
        .homeserver_url(homeserver)
        .with_encryption_settings(EncryptionSettings {
            auto_enable_cross_signing: false,
            auto_enable_backups: false,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
        })
        .build()
        .await?)
}

/// Registers somebody with a name of their own.
pub async fn register(name: &str) -> Result<OwnedUserId> {
    register_at(&homeserver(), name).await
}

async fn register_at(homeserver: &str, name: &str) -> Result<OwnedUserId> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let localpart = format!("{name}-{nanos:x}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let request = assign!(Register::new(), {
        username: Some(localpart),
        password: Some(PASSWORD.to_owned()),
        auth: Some(AuthData::Dummy(Dummy::new())),
        inhibit_login: true,
    });
    Ok(anonymous(homeserver, None).await?.send(request).await?.user_id)
}

/// Logs somebody in on a new device, which does not sync yet.
pub async fn log_in(user_id: &UserId) -> Result<Client> {
    log_in_at(&homeserver(), user_id, None).await
}

/// Logs somebody in on a new device that keeps its things in a directory, and does not sync yet.
pub async fn log_in_keeping(user_id: &UserId, directory: &Path) -> Result<Client> {
    log_in_at(&homeserver(), user_id, Some(directory)).await
}

/// A client as it is after a restart: it has its session, and what it kept.
pub async fn restore(session: AuthSession, directory: &Path) -> Result<Client> {
    let client = anonymous(&homeserver(), Some(directory)).await?;
    client.restore_session(session).await?;
    Ok(client)
}

async fn log_in_at(homeserver: &str, user_id: &UserId, directory: Option<&Path>) -> Result<Client> {
    let client = anonymous(homeserver, directory).await?;
    client.matrix_auth().login_username(user_id, PASSWORD).initial_device_display_name("test").send().await?;
    Ok(client)
}

impl Device {
    /// Somebody new, on a device that syncs.
    pub async fn of_new(name: &str) -> Result<Self> {
        Self::of_new_at(&homeserver(), name).await
    }

    /// Somebody new at a homeserver, on a device that syncs.
    pub async fn of_new_at(homeserver: &str, name: &str) -> Result<Self> {
        Self::of_at(homeserver, &register_at(homeserver, name).await?).await
    }

    /// Another device of somebody, which syncs.
    pub async fn of(user_id: &UserId) -> Result<Self> {
        Self::of_at(&homeserver(), user_id).await
    }

    /// Another device of somebody at a homeserver, which syncs.
    pub async fn of_at(homeserver: &str, user_id: &UserId) -> Result<Self> {
        let mut device = Self::of_client(log_in_at(homeserver, user_id, None).await?);
        device.client.sync_once(SyncSettings::default()).await?;
        let client = device.client.clone();
        device.sync = Some(tokio::spawn(async move {
            // Wide enough that no test's messages fall into a gap.
            let timeline = assign!(RoomEventFilter::default(), { limit: Some(uint!(200)) });
            let room = assign!(RoomFilter::default(), { timeline });
            let filter = assign!(FilterDefinition::default(), { room });
            let settings = SyncSettings::default().timeout(Duration::from_secs(10)).filter(filter.into());
            if let Err(error) = client.sync(settings).await {
                eprintln!("sync ended: {error}");
            }
        }));
        Ok(device)
    }

    /// A device whose syncing is another's business; it still notes the messages that it sees.
    pub fn of_client(client: Client) -> Self {
        let (tell, seen) = watch::channel(Vec::new());
        let tell = Arc::new(tell);
        client.add_event_handler(
            move |event: OriginalSyncRoomMessageEvent, room: Room, encryption: Option<EncryptionInfo>| {
                let tell = tell.clone();
                async move {
                    tell.send_modify(|seen| {
                        seen.push(Seen {
                            room_id: room.room_id().to_owned(),
                            event_id: event.event_id,
                            sender: event.sender,
                            body: event.content.body().to_owned(),
                            encrypted: encryption.is_some(),
                        });
                    });
                }
            },
        );
        Self { client, seen, sync: None }
    }

    /// The user.
    pub fn user_id(&self) -> &UserId {
        self.client.user_id().expect("devices are logged in")
    }

    /// A room as this device knows it.
    pub fn room(&self, room_id: &RoomId) -> Result<Room> {
        self.client.get_room(room_id).with_context(|| format!("{} does not know {room_id}", self.user_id()))
    }

    /// Sends a text.
    pub async fn say(&self, room_id: &RoomId, text: &str) -> Result<OwnedEventId> {
        let content = RoomMessageEventContent::text_plain(text);
        Ok(self.room(room_id)?.send(content).await?.response.event_id)
    }

    /// Waits for a message to come by in the sync.
    pub async fn sees(&self, event_id: &OwnedEventId) -> Result<Seen> {
        let mut seen = self.seen.clone();
        let waiting = seen.wait_for(|all| all.iter().any(|s| s.event_id == *event_id));
        let all = tokio::time::timeout(PATIENCE, waiting)
            .await
            .with_context(|| format!("waited in vain for {} to read {event_id}", self.client.user_id().unwrap()))??;
        all.iter().find(|s| s.event_id == *event_id).cloned().context("the message was there a moment ago")
    }

    /// All messages seen so far.
    pub fn all_seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    /// Waits until this device sees itself in a room.
    pub async fn is_in(&self, room_id: &RoomId) -> Result<Room> {
        until("the room is in the sync", || async {
            Ok(self.client.get_room(room_id).filter(|room| room.state() == RoomState::Joined))
        })
        .await
    }
}

/// Whether a new room is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// From the start.
    On,
    /// Not at all.
    Off,
}

/// A room that the first makes and the others join.
pub async fn room_of(owner: &Device, others: &[&Device], encryption: Encryption) -> Result<OwnedRoomId> {
    let mut request = assign!(CreateRoom::new(), {
        preset: Some(RoomPreset::PublicChat),
        invite: others.iter().map(|other| other.user_id().to_owned()).collect(),
    });
    if encryption == Encryption::On {
        let content = RoomEncryptionEventContent::with_recommended_defaults();
        request.initial_state = vec![InitialStateEvent::with_empty_state_key(content).to_raw_any()];
    }
    let room_id = owner.client.create_room(request).await?.room_id().to_owned();
    for other in others {
        let invited = until("the invite is there", || async {
            Ok(other.client.get_room(&room_id).filter(|room| room.state() == RoomState::Invited))
        })
        .await?;
        invited.join().await?;
        other.is_in(&room_id).await?;
    }
    let room = owner.is_in(&room_id).await?;
    for other in others {
        until("the owner sees the member", || async {
            let member = room.get_member_no_sync(other.user_id()).await?;
            Ok(member.filter(|m| m.membership().as_str() == "join"))
        })
        .await?;
    }
    if encryption == Encryption::On {
        for device in others.iter().chain([&owner]) {
            let room = device.room(&room_id)?;
            until("the room is known as encrypted", || async {
                Ok(room.latest_encryption_state().await?.is_encrypted().then_some(()))
            })
            .await?;
        }
    }
    Ok(room_id)
}

/// Looks again until there is something.
pub async fn until<T, F, Fut>(what: &str, look: F) -> Result<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if tokio::time::Instant::now() > end {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
