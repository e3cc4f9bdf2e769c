//! Pushers: where an app wants to be told.

use ruma::{DeviceId, OwnedUserId, UserId};
use samtal_db::{Batch, Change, Db, Row, params};
use samtal_kit::Clock;
use samtal_model::ChangeKind;
use serde_json::{Map, Value};

use crate::{PushError, schema};

/// Pushers of one user.
const PUSHERS_MAX: usize = 100;

/// Which pusher: unique in a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PusherKey {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Of which app.
    pub app_id: String,
    /// The app's name for the device.
    pub pushkey: String,
}

/// Where an app wants to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Pusher {
    /// Which one.
    pub key: PusherKey,
    /// `http` or `email`.
    pub kind: String,
    /// The device that registered it: it goes with that device.
    pub device_id: Option<String>,
    /// The app's name.
    pub app_display_name: String,
    /// The device's name.
    pub device_display_name: String,
    /// Which set of rules it belongs to.
    pub profile_tag: Option<String>,
    /// Language of what people read.
    pub lang: String,
    /// `url`, `format` and whatever else the app wants to get back.
    pub data: Map<String, Value>,
    /// When it was registered, in milliseconds since the epoch.
    pub created_ms: i64,
}

impl Pusher {
    /// The gateway.
    pub fn url(&self) -> Option<&str> {
        self.data.get("url").and_then(Value::as_str)
    }

    /// Whether it is a person's mailbox, which gets letters rather than single notifications.
    pub(crate) fn is_mail(&self) -> bool {
        self.kind == "email"
    }

    /// Whether the gateway is to know no more than ids.
    pub fn event_id_only(&self) -> bool {
        self.data.get("format").and_then(Value::as_str) == Some("event_id_only")
    }

    fn from_row(row: &Row) -> Result<Option<Self>, PushError> {
        let Ok(user_id) = UserId::parse(row.text(0)?) else { return Ok(None) };
        Ok(Some(Self {
            key: PusherKey { user_id, app_id: row.get(1)?, pushkey: row.get(2)? },
            kind: row.get(3)?,
            device_id: row.get(4)?,
            app_display_name: row.get(5)?,
            device_display_name: row.get(6)?,
            profile_tag: row.get(7)?,
            lang: row.get(8)?,
            data: serde_json::from_str(row.text(9)?).unwrap_or_default(),
            created_ms: row.int(10)?,
        }))
    }
}

/// The pushers of one tenant.
#[derive(Clone, Debug)]
pub struct Pushers {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
}

impl Pushers {
    /// In this database, which must have been opened with [`crate::SCHEMA`].
    pub fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock }
    }

    /// All pushers.
    pub async fn all(&self) -> Result<Vec<Pusher>, PushError> {
        let rows = self.db.query(&schema::PUSHERS, vec![]).await?;
        rows.iter().filter_map(|row| Pusher::from_row(row).transpose()).collect()
    }

    /// The pushers of a user.
    pub async fn of_user(&self, user_id: &UserId) -> Result<Vec<Pusher>, PushError> {
        let rows = self.db.query(&schema::PUSHERS_OF, params![user_id.as_str()]).await?;
        rows.iter().filter_map(|row| Pusher::from_row(row).transpose()).collect()
    }

    /// Registers a pusher or changes it. Unless `append`, those of other users with the same app and key go.
    pub async fn set(&self, pusher: Pusher, append: bool) -> Result<(), PushError> {
        let key = &pusher.key;
        let of_user = self.of_user(&key.user_id).await?;
        if of_user.len() >= PUSHERS_MAX && !of_user.iter().any(|other| other.key == *key) {
            return Err(PushError::TooMany);
        }
        let mut batch = Batch::new();
        if !append {
            for row in self.db.query(&schema::PUSHER_USERS, params![&key.app_id, &key.pushkey]).await? {
                let user = row.text(0)?;
                if user != key.user_id.as_str()
                    && let Ok(user_id) = UserId::parse(user)
                {
                    delete(&mut batch, &PusherKey { user_id, ..key.clone() });
                }
            }
        }
        let data = Value::Object(pusher.data.clone()).to_string();
        batch.exec(
            &schema::PUSHER_SET,
            params![
                key.user_id.as_str(),
                &key.app_id,
                &key.pushkey,
                &pusher.kind,
                pusher.device_id.clone(),
                &pusher.app_display_name,
                &pusher.device_display_name,
                pusher.profile_tag.clone(),
                &pusher.lang,
                data,
                self.clock.now_ms(),
            ],
        );
        batch.log(Change::new(ChangeKind::Pusher).user(&key.user_id));
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Removes a pusher, if it is there.
    pub async fn delete(&self, key: &PusherKey) -> Result<(), PushError> {
        let mut batch = Batch::new();
        delete(&mut batch, key);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Removes the pushers of a device; of all devices for `None`.
    pub(crate) async fn delete_of_device(
        &self,
        user_id: &UserId,
        device_id: Option<&DeviceId>,
    ) -> Result<(), PushError> {
        let mut batch = Batch::new();
        for pusher in self.of_user(user_id).await? {
            if device_id.is_none_or(|device_id| pusher.device_id.as_deref() == Some(device_id.as_str())) {
                delete(&mut batch, &pusher.key);
            }
        }
        if !batch.is_empty() {
            self.db.commit(batch).await?;
        }
        Ok(())
    }
}

fn delete(batch: &mut Batch, key: &PusherKey) {
    let values = params![key.user_id.as_str(), &key.app_id, &key.pushkey];
    batch.exec(&schema::PUSHER_DELETE, values.clone());
    batch.exec(&schema::PENDING_DELETE, values.clone());
    batch.exec(&schema::MAIL_DELETE, values);
    batch.log(Change::new(ChangeKind::Pusher).user(&key.user_id));
}
