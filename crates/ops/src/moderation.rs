//! What administrators do about people and rooms that have gone wrong: redacting what somebody wrote, refusing unwanted invites,
//! giving a room without an administrator one again.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use samtal_event::Draft;
use samtal_model::StreamPosition;
use samtal_room::{LocalDraft, PendingInvite, Room, StoredEvent};
use samtal_state::PowerLevels;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Homeserver, OpError, member::Content};

/// Events of a timeline read in one go.
const PAGE: usize = 500;
/// Events of somebody that are redacted in one room when nobody says how many.
pub const REDACT_MAX: usize = 1_000;
/// Events of one room that are looked at.
const LOOKED_AT_MAX: usize = 100_000;

/// Which events of a user are to be redacted.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Redaction {
    /// Whose.
    pub user: OwnedUserId,
    /// In which rooms; in none means in all that they are in or banned from.
    pub rooms: Vec<OwnedRoomId>,
    /// Why.
    pub reason: Option<String>,
    /// At most so many in each room, the newest.
    pub limit: usize,
    /// Only those from before, in ms since the epoch.
    pub before_ms: Option<i64>,
    /// Only those from after, in ms since the epoch.
    pub after_ms: Option<i64>,
    /// Who wants it.
    pub by: OwnedUserId,
    /// Whether it is done in the name of who wants it also where the writer could do it themselves.
    pub as_admin: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Redacted {
    /// How many were redacted.
    pub redacted: usize,
    /// Which were not, and why.
    pub failed_redactions: BTreeMap<OwnedEventId, String>,
}

/// Which waiting invites are meant: those that fit everything that is said here.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Invites {
    /// From this user.
    pub sender: Option<OwnedUserId>,
    /// From users of this server.
    pub server: Option<OwnedServerName>,
    /// To this room.
    pub room_id: Option<OwnedRoomId>,
    /// Of this user.
    pub user_id: Option<OwnedUserId>,
}

/// What became of invites that were to be refused.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// How many were refused.
    pub refused: usize,
    /// How many could not be.
    pub failed: usize,
}

impl Invites {
    /// Whether it says nothing, which would mean all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an invite is among them.
    pub fn has(&self, invite: &PendingInvite) -> bool {
        self.sender.as_ref().is_none_or(|sender| *sender == invite.sender)
            && self.server.as_ref().is_none_or(|server| server == invite.sender.server_name())
            && self.room_id.as_ref().is_none_or(|room_id| *room_id == invite.room_id)
            && self.user_id.as_ref().is_none_or(|user_id| *user_id == invite.user_id)
    }
}

impl Homeserver {
    /// Redacts what a user wrote. Doing it again goes on where it stopped.
    pub(crate) async fn redact_user(&self, wish: &Redaction) -> Result<Redacted, OpError> {
        let mut rooms = wish.rooms.clone();
        if rooms.is_empty() {
            let known = self.rooms.store().graph.memberships(&wish.user).await?;
            let meant = known
                .into_iter()
                .filter(|known| matches!(known.membership, MembershipState::Join | MembershipState::Ban));
            rooms = meant.map(|known| known.room_id).collect();
        }
        let mut done = Redacted::default();
        for room_id in rooms {
            if let Some(room) = self.resident_room(&room_id).await? {
                self.redact_user_in(wish, &room, &mut done).await?;
            }
        }
        Ok(done)
    }

    async fn redact_user_in(&self, wish: &Redaction, room: &Room, done: &mut Redacted) -> Result<(), OpError> {
        let redactor = self.redactor(wish, room).await?;
        let (mut upto, mut looked_at, mut found) = (StreamPosition(self.db.position()), 0, 0);
        loop {
            let graph = &self.rooms.store().graph;
            let page = graph.timeline_back(room.nid, upto, StreamPosition(i64::MIN), PAGE).await?;
            let Some(last) = page.last().and_then(|event| event.position) else { return Ok(()) };
            for event in page.iter().filter(|event| is_meant(wish, event)) {
                if found >= wish.limit {
                    return Ok(());
                }
                found += 1;
                let id = event.pdu.event_id();
                let sent = match &redactor {
                    Some(redactor) => self.redact(redactor, room, event, wish.reason.as_deref()).await,
                    None => Err(OpError::Forbidden("nobody of this server may redact it".into())),
                };
                match sent {
                    Ok(()) => done.redacted += 1,
                    // A database that fails, or a full queue: the task is tried again.
                    Err(error @ OpError::Storage(_)) => return Err(error),
                    Err(error) => drop(done.failed_redactions.insert(id.to_owned(), error.to_string())),
                }
            }
            looked_at += page.len();
            if looked_at >= LOOKED_AT_MAX {
                return Ok(());
            }
            upto = StreamPosition(last.0 - 1);
        }
    }

    /// In whose name a user's events are redacted in a room: their own while they are in it, otherwise the administrator's or
    /// that of anybody here who may.
    async fn redactor(&self, wish: &Redaction, room: &Room) -> Result<Option<OwnedUserId>, OpError> {
        let graph = &self.rooms.store().graph;
        if !wish.as_admin && self.is_local(&wish.user) && graph.is_joined(&wish.user, &room.room_id).await? {
            return Ok(Some(wish.user.clone()));
        }
        let levels = self.power_levels(room).await?;
        let mut ours = graph.joined_of(room.nid, &self.name).await?;
        ours.retain(|user| levels.can_redact_others(user));
        if ours.contains(&wish.by) {
            return Ok(Some(wish.by.clone()));
        }
        Ok(ours.into_iter().max_by(|one, other| levels.user_level(one).cmp(&levels.user_level(other))))
    }

    async fn redact(
        &self,
        redactor: &UserId,
        room: &Room,
        event: &StoredEvent,
        reason: Option<&str>,
    ) -> Result<(), OpError> {
        let content: Content = reason.map(|reason| ("reason".to_owned(), Value::from(reason))).into_iter().collect();
        let draft = Draft::message_of(TimelineEventType::RoomRedaction, &content)?.redacting(event.pdu.event_id());
        self.rooms.send_one(&room.room_id, LocalDraft::new(redactor, draft)).await?;
        Ok(())
    }

    /// Refuses invites that wait, in the name of those invited.
    pub async fn refuse_invites(&self, which: &Invites) -> Result<Refused, OpError> {
        let mut done = Refused::default();
        for invite in self.rooms.pending_invites().await?.iter().filter(|invite| which.has(invite)) {
            match self.part(&invite.user_id, &invite.room_id, Content::new()).await {
                Ok(()) => done.refused += 1,
                Err(error @ OpError::Storage(_)) => return Err(error),
                Err(error) => {
                    tracing::info!(room_id = %invite.room_id, %error, "an invite could not be refused");
                    done.failed += 1;
                }
            }
        }
        Ok(done)
    }

    /// Gives a user of ours as much power in a room as somebody of ours can give, and invites them if they are not in it. Where
    /// nobody of ours who is in the room has any, one who once had it comes back for this: a creator, or somebody whom the
    /// power levels still name. In whose name it was done.
    pub async fn make_room_admin(&self, room_id: &RoomId, target: &UserId) -> Result<OwnedUserId, OpError> {
        let room =
            self.resident_room(room_id).await?.ok_or_else(|| OpError::NotFound("the room is not known here".into()))?;
        if self.is_local(target) && self.accounts.user(target).await?.is_none_or(|user| user.deactivated) {
            return Err(OpError::NotFound("there is no such user".into()));
        }
        let levels = self.power_levels(&room).await?;
        let ours = self.rooms.store().graph.joined_of(room.nid, &self.name).await?;
        let able = ours.into_iter().filter(|user| can_give(&levels, user));
        if let Some(giver) = able.max_by(|one, other| levels.user_level(one).cmp(&levels.user_level(other))) {
            self.give_power(&giver, room_id, target).await?;
            return Ok(giver);
        }
        for giver in self.absent_givers(&room, &levels).await? {
            if let Err(error) = self.bring_back(&giver, &room, &levels).await {
                tracing::info!(%room_id, %error, "somebody with power could not come back into the room");
                continue;
            }
            let given = self.give_power(&giver, room_id, target).await;
            if giver != target {
                // They only came for this.
                self.part(&giver, room_id, Content::new()).await?;
            }
            given?;
            return Ok(giver);
        }
        Err(OpError::BadRequest("nobody of this server has, or could have again, the power to do this".into()))
    }

    /// Users of ours who are not in the room and would have the power, the mightiest first.
    async fn absent_givers(&self, room: &Room, levels: &PowerLevels) -> Result<Vec<OwnedUserId>, OpError> {
        let create = self.rooms.current_state(&room.room_id, "m.room.create", "").await?;
        let mut named: Vec<OwnedUserId> = create.iter().map(|create| create.pdu.sender().to_owned()).collect();
        if let Some(create) = &create {
            named.extend(create.pdu.content_field::<Vec<OwnedUserId>>("additional_creators").unwrap_or_default());
        }
        let content = self.state_content(&room.room_id, "m.room.power_levels").await?.unwrap_or_default();
        let users = content.get("users").and_then(Value::as_object);
        named.extend(users.into_iter().flatten().filter_map(|(user, _)| UserId::parse(user).ok()));
        named.retain(|user| self.is_local(user) && can_give(levels, user));
        named.sort_by(|one, other| levels.user_level(other).cmp(&levels.user_level(one)).then_with(|| one.cmp(other)));
        named.dedup();
        Ok(named)
    }

    /// Has a user of ours join a room again, invited by one of ours if the room wants it.
    async fn bring_back(&self, user: &UserId, room: &Room, levels: &PowerLevels) -> Result<(), OpError> {
        let Err(refused) = self.join(user, &room.room_id, &[], Content::new()).await else { return Ok(()) };
        let ours = self.rooms.store().graph.joined_of(room.nid, &self.name).await?;
        let Some(inviter) = ours.iter().find(|inviter| levels.can_invite(inviter)) else { return Err(refused) };
        self.invite(inviter, user, &room.room_id, Content::new()).await?;
        self.join(user, &room.room_id, &[], Content::new()).await
    }

    async fn give_power(&self, giver: &UserId, room_id: &RoomId, target: &UserId) -> Result<(), OpError> {
        let mut content = self.state_content(room_id, "m.room.power_levels").await?.unwrap_or_default();
        let level =
            content.get("users").and_then(|users| users.get(giver.as_str())).cloned().unwrap_or_else(|| 100.into());
        // A creator has more than any level already, and may not be named.
        if giver != target {
            let mut users = match content.remove("users") {
                Some(Value::Object(users)) => users,
                _ => Map::new(),
            };
            users.insert(target.to_string(), level);
            content.insert("users".to_owned(), users.into());
            let content =
                serde_json::value::to_raw_value(&content).map_err(|error| OpError::BadContent(error.to_string()))?;
            self.send_state(giver, room_id, &StateEventType::RoomPowerLevels, "", &content).await?;
        }
        if !self.rooms.store().graph.is_joined(target, room_id).await? {
            self.invite(giver, target, room_id, Content::new()).await?;
        }
        Ok(())
    }
}

fn can_give(levels: &PowerLevels, user: &UserId) -> bool {
    levels.can_send(user, &TimelineEventType::RoomPowerLevels, true)
}

/// Whether an event is of those that are to be redacted: what was said, and what a member event says beside the membership.
fn is_meant(wish: &Redaction, event: &StoredEvent) -> bool {
    let pdu = &event.pdu;
    let ts = pdu.origin_server_ts_ms();
    let speaks = match pdu.state_key() {
        None => pdu.type_str() != "m.room.redaction",
        Some(_) => pdu.type_str() == "m.room.member",
    };
    pdu.sender() == wish.user
        && speaks
        && event.is_visible()
        && event.redacted_by.is_none()
        && wish.before_ms.is_none_or(|before| ts < before)
        && wish.after_ms.is_none_or(|after| ts > after)
}
