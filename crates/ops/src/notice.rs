//! Server notices: what those who run the server tell a user, in a room of its own (CS API, "Server Notices").

use std::collections::HashSet;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::room::create_room::v3::RoomPreset,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use samtal_account::{Client, Kind, NewUser};
use samtal_event::Draft;
use samtal_room::{LocalDraft, Txn};
use serde_json::{Value, json, value::RawValue};

use crate::{CreateRoom, Homeserver, OpError};

/// The tag by which clients know such a room.
const TAG: &str = "m.server_notice";

/// In whose name, and in which room, users are told something.
#[derive(Clone, Debug)]
pub struct Notices {
    /// The local part of the user in whose name notices are sent. It is made when it is first needed.
    pub sender: String,
    /// What that user is called.
    pub display_name: Option<String>,
    /// What the rooms are called.
    pub room_name: String,
}

impl Default for Notices {
    fn default() -> Self {
        Self { sender: "_server".to_owned(), display_name: None, room_name: "Server Notices".to_owned() }
    }
}

/// What is to be told.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    /// The event's type; `m.room.message` most of the time.
    pub event_type: &'a str,
    /// The state key, for a state event.
    pub state_key: Option<&'a str>,
    /// The event's content.
    pub content: &'a RawValue,
    /// The administrator's device and transaction, so that sending it again sends nothing.
    pub txn: Option<(&'a UserId, &'a str)>,
}

impl Homeserver {
    /// In whose name notices are sent.
    pub fn notice_sender(&self) -> Result<OwnedUserId, OpError> {
        UserId::parse(format!("@{}:{}", self.settings.notices.sender, self.name))
            .map_err(|_| OpError::Invalid("the sender of server notices has no possible name".into()))
    }

    /// Tells a user of ours something. They are invited to their notice room, which is made if they have none, and cannot
    /// refuse; the same room serves for all that follows.
    pub async fn send_notice(&self, to: &UserId, notice: Notice<'_>) -> Result<OwnedEventId, OpError> {
        if !self.is_local(to) {
            return Err(OpError::BadRequest("server notices are for users of this server".into()));
        }
        if self.accounts.user(to).await?.is_none_or(|user| user.deactivated) {
            return Err(OpError::NotFound("there is no such user".into()));
        }
        let sender = self.notice_sender()?;
        let room_id = self.notice_room(&sender, to).await?;
        if matches!(self.membership(to, &room_id).await?, MembershipState::Leave | MembershipState::Knock) {
            // Whatever they think of invites: this one is not a matter of taste.
            let content = self.member_content(to, &MembershipState::Invite).await?;
            self.rooms.send_one(&room_id, Self::member_draft(&sender, to, &content)?).await?;
        }
        let draft = match notice.state_key {
            None => Draft::message(TimelineEventType::from(notice.event_type), notice.content)?,
            Some(key) => Draft::state(&StateEventType::from(notice.event_type), key.to_owned(), notice.content)?,
        };
        let mut draft = LocalDraft::new(sender, draft);
        if let Some((admin, txn)) = notice.txn {
            let room = self.rooms.room(&room_id).await?;
            draft.txn = Some(Txn::name(admin, "server notice", &room, notice.event_type, txn));
        }
        Ok(self.rooms.send_one(&room_id, draft).await?)
    }

    /// Whether the room is one in which the server tells its users something.
    pub(crate) async fn is_notice_room(&self, room_id: &RoomId) -> Result<bool, OpError> {
        let sender = self.notice_sender()?;
        let create = self.rooms.current_state(room_id, "m.room.create", "").await?;
        Ok(create.is_some_and(|create| create.pdu.sender() == sender))
    }

    /// The user's notice room, made if there is none.
    async fn notice_room(&self, sender: &UserId, user: &UserId) -> Result<OwnedRoomId, OpError> {
        // Two notices at once are two notices in one room.
        let _turn = self.notice_turn.lock().await;
        self.make_notice_sender(sender).await?;
        let ours: HashSet<OwnedRoomId> =
            self.rooms.store().graph.memberships(sender).await?.into_iter().map(|room| room.room_id).collect();
        for known in self.rooms.store().graph.memberships(user).await? {
            if ours.contains(&known.room_id)
                && known.membership != MembershipState::Ban
                && self.is_notice_room(&known.room_id).await?
                && self.rooms.store().graph.is_joined(sender, &known.room_id).await?
            {
                return Ok(known.room_id);
            }
        }
        let mut wish = CreateRoom::new(sender);
        wish.preset = Some(RoomPreset::PrivateChat);
        wish.name = Some(self.settings.notices.room_name.clone());
        // The user reads; the server has no keys to write for them alone.
        wish.power_levels.insert("users_default".into(), (-10).into());
        wish.unencrypted = true;
        let room_id = self.create_room(wish).await?;
        self.accounts.edit_account_data(user, Some(&room_id), "m.tag", |before| Ok((Some(tagged(before)), ()))).await?;
        Ok(room_id)
    }

    async fn make_notice_sender(&self, sender: &UserId) -> Result<(), OpError> {
        match self.accounts.user(sender).await? {
            // Made here, and nobody's.
            Some(known) if known.kind == Kind::Service && known.service.is_none() => return Ok(()),
            Some(_) => {
                return Err(OpError::BadRequest(format!(
                    "{sender}, in whose name notices are sent, is somebody's account: choose another name for it"
                )));
            }
            None => {}
        }
        // Without a password and a service nobody can log in as them.
        let mut new = NewUser::normal(sender.to_owned());
        new.kind = Kind::Service;
        new.display_name = Some(self.settings.notices.display_name.clone().unwrap_or_else(|| self.name.to_string()));
        self.accounts.create(new, &Client::default()).await?;
        Ok(())
    }
}

fn tagged(before: Option<Value>) -> Value {
    let mut tags = before.filter(Value::is_object).unwrap_or_else(|| json!({}));
    if !tags["tags"].is_object() {
        tags["tags"] = json!({});
    }
    tags["tags"][TAG] = json!({});
    tags
}
