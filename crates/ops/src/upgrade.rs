//! Replacing a room by one of another version (CS API, "Room Upgrades").

use std::collections::HashSet;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    api::client::room::create_room::v3::RoomPreset,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use samtal_account::AccountError;
use samtal_event::{Draft, rules_of};
use samtal_room::{LocalDraft, Room, RoomError};
use serde_json::{Value, json};

use crate::{CreateRoom, Homeserver, InitialState, OpError, create_room::default_power_levels, member::Content};

/// State that goes along, all with the empty state key.
const COPIED: [&str; 10] = [
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.related_groups",
    "m.room.retention",
];
/// What creators may say in a create event that is not about one room only.
const NOT_CARRIED: [&str; 4] = ["creator", "room_version", "predecessor", "additional_creators"];
/// Most bans that go along.
const BANS_MAX: usize = 1_000;
const TOMBSTONE_LEVEL_MIN: i64 = 150;

impl Homeserver {
    /// Replaces a room. Whoever may send its tombstone may do so.
    pub async fn upgrade_room(
        &self,
        user: &UserId,
        room_id: &RoomId,
        version: RoomVersionId,
        additional_creators: Vec<OwnedUserId>,
    ) -> Result<OwnedRoomId, OpError> {
        let rules = rules_of(&version).ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
        let old = self.resident_room(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        if !self.rooms.store().graph.is_joined(user, room_id).await? {
            return Err(OpError::Forbidden("you are not in the room".into()));
        }
        let levels = self.power_levels(&old).await?;
        if !levels.can_send(user, &TimelineEventType::RoomTombstone, true) {
            return Err(OpError::Forbidden("your power level does not let you upgrade the room".into()));
        }
        let mut wish = CreateRoom::new(user);
        wish.version = Some(version);
        // No more than what is copied: neither guests, nor encryption, nor other join rules.
        wish.preset = Some(RoomPreset::PrivateChat);
        let id_is_known = !rules.authorization.room_create_event_id_as_room_id;
        if id_is_known {
            wish.room_id = Some(self.rooms.new_room_id()?);
        }
        wish.creation_content = self.carried_creation(&old, id_is_known).await?;
        if rules.authorization.additional_room_creators && !additional_creators.is_empty() {
            wish.creation_content.insert("additional_creators".into(), json!(additional_creators));
        }
        wish.initial_state = self.carried_state(&old).await?;
        let final_levels = self.carried_levels(&old, user, &additional_creators, rules).await?;
        let first_levels = enough_to_create(final_levels.clone(), user, rules);
        wish.initial_state.push(InitialState {
            event_type: "m.room.power_levels".into(),
            state_key: String::new(),
            content: first_levels.clone(),
        });
        let new = self.replace(user, room_id, wish).await?;
        self.move_names(user, room_id, &new).await?;
        self.carry_bans(user, &old, &new).await;
        if first_levels != final_levels {
            self.try_state(user, &new, "m.room.power_levels", &final_levels).await;
        }
        self.quiet_old(user, &old).await?;
        Ok(new)
    }

    /// Makes the new room and says so in the old one. Where the new room's id can be chosen, its create event names the
    /// tombstone; from room version 12 on the tombstone needs the create event first.
    async fn replace(&self, user: &UserId, old: &RoomId, mut wish: CreateRoom) -> Result<OwnedRoomId, OpError> {
        let Some(new) = wish.room_id.clone() else {
            let new = self.create_room(wish).await.map_err(refused)?;
            self.send_tombstone(user, old, &new).await?;
            return Ok(new);
        };
        let tombstone = self.send_tombstone(user, old, &new).await?;
        if let Some(predecessor) = wish.creation_content.get_mut("predecessor").and_then(Value::as_object_mut) {
            predecessor.insert("event_id".into(), tombstone.as_str().into());
        }
        match self.create_room(wish).await {
            Ok(new) => Ok(new),
            Err(error) => {
                // It points nowhere.
                self.try_state(user, old, "m.room.tombstone", &Content::new()).await;
                Err(refused(error))
            }
        }
    }

    async fn send_tombstone(&self, user: &UserId, old: &RoomId, new: &RoomId) -> Result<OwnedEventId, OpError> {
        let tombstone = json!({ "body": "This room has been replaced", "replacement_room": new });
        let tombstone = Draft::state_of(&StateEventType::RoomTombstone, "", &tombstone)?;
        Ok(self.rooms.send_one(old, LocalDraft::new(user, tombstone)).await?)
    }

    /// From room version 12 on the predecessor's last event is not named.
    async fn carried_creation(&self, old: &Room, names_event: bool) -> Result<Content, OpError> {
        let mut content = self.state_content(&old.room_id, "m.room.create").await?.unwrap_or_default();
        for field in NOT_CARRIED {
            content.remove(field);
        }
        let mut predecessor = json!({ "room_id": old.room_id });
        let last = if names_event { self.rooms.extremities(old).await?.pop() } else { None };
        if let (Some(last), Some(fields)) = (last, predecessor.as_object_mut()) {
            fields.insert("event_id".into(), last.as_str().into());
        }
        content.insert("predecessor".into(), predecessor);
        Ok(content)
    }

    async fn carried_state(&self, old: &Room) -> Result<Vec<InitialState>, OpError> {
        let mut carried = Vec::new();
        for event in self.rooms.current_state_but_members(&old.room_id).await? {
            let (event_type, state_key) = (event.pdu.type_str(), event.pdu.state_key().unwrap_or_default());
            let content: Content = serde_json::from_str(event.pdu.content_str()).unwrap_or_default();
            // A space keeps its rooms; those without `via` have been taken out.
            let is_child = event_type == "m.space.child" && content.contains_key("via");
            let is_policy = event_type.starts_with("m.policy.rule.");
            if (state_key.is_empty() && COPIED.contains(&event_type)) || is_child || is_policy {
                let (event_type, state_key) = (event_type.to_owned(), state_key.to_owned());
                carried.push(InitialState { event_type, state_key, content });
            }
        }
        Ok(carried)
    }

    async fn carried_levels(
        &self,
        old: &Room,
        user: &UserId,
        additional_creators: &[OwnedUserId],
        rules: &ruma::room_version_rules::RoomVersionRules,
    ) -> Result<Content, OpError> {
        let found = self.state_content(&old.room_id, "m.room.power_levels").await?;
        let mut levels = found.unwrap_or_else(|| default_power_levels(rules));
        if rules.authorization.integer_power_levels {
            make_integers(&mut levels);
        }
        let was_infinite = old.rules.authorization.explicitly_privilege_room_creators;
        let is_infinite = rules.authorization.explicitly_privilege_room_creators;
        let mut users = levels.remove("users").and_then(into_object).unwrap_or_default();
        if is_infinite {
            users.retain(|named, _| named != user.as_str() && additional_creators.iter().all(|other| other != named));
            let events = levels.entry("events").or_insert_with(|| Value::Object(Content::new()));
            if let Some(events) = events.as_object_mut() {
                let level = events.get("m.room.tombstone").and_then(Value::as_i64).unwrap_or_default();
                events.insert("m.room.tombstone".into(), level.max(TOMBSTONE_LEVEL_MIN).into());
            }
        } else if was_infinite {
            // Infinity has no number in older versions: the creator gets what the room is made with.
            users.insert(user.to_string(), 100.into());
        }
        levels.insert("users".into(), Value::Object(users));
        Ok(levels)
    }

    async fn move_names(&self, user: &UserId, old: &RoomId, new: &RoomId) -> Result<(), OpError> {
        let canonical = self.state_content(old, "m.room.canonical_alias").await?;
        self.rooms.move_aliases(old, new).await?;
        if self.rooms.is_published(old).await? {
            self.rooms.set_published(new, true).await?;
            self.rooms.set_published(old, false).await?;
        }
        if let Some(content) = canonical.filter(|content| !content.is_empty()) {
            self.try_state(user, old, "m.room.canonical_alias", &Content::new()).await;
            self.try_state(user, new, "m.room.canonical_alias", &content).await;
        }
        Ok(())
    }

    async fn carry_bans(&self, user: &UserId, old: &Room, new: &RoomId) {
        let Ok(banned) = self.rooms.store().graph.members(old.nid, &[MembershipState::Ban]).await else { return };
        for member in banned.into_iter().take(BANS_MAX) {
            let mut extra = Content::new();
            if let Ok(Some(content)) = self.member_event_content(&old.room_id, &member.user_id).await
                && let Some(reason) = content.get("reason")
            {
                extra.insert("reason".into(), reason.clone());
            }
            if let Err(error) = self.ban(user, &member.user_id, new, extra).await {
                tracing::debug!(%error, "a ban was not carried over");
            }
        }
    }

    /// Lets nobody but moderators speak in the old room, as far as the user may decide that.
    async fn quiet_old(&self, user: &UserId, old: &Room) -> Result<(), OpError> {
        let Some(mut levels) = self.state_content(&old.room_id, "m.room.power_levels").await? else { return Ok(()) };
        let level = |name: &str| levels.get(name).and_then(Value::as_i64);
        let quiet = level("users_default").unwrap_or(0).saturating_add(1).max(50);
        let speaks = level("events_default").unwrap_or(0) < quiet;
        let invites = level("invite").unwrap_or(0) < quiet;
        if speaks {
            levels.insert("events_default".into(), quiet.into());
        }
        if invites {
            levels.insert("invite".into(), quiet.into());
        }
        if speaks || invites {
            self.try_state(user, &old.room_id, "m.room.power_levels", &levels).await;
        }
        Ok(())
    }

    /// Sends state that is welcome but not needed.
    async fn try_state(&self, user: &UserId, room_id: &RoomId, event_type: &str, content: &Content) {
        let Ok(draft) = Draft::state_of(&StateEventType::from(event_type), "", content) else { return };
        if let Err(error) = self.rooms.send_one(room_id, LocalDraft::new(user, draft)).await {
            tracing::debug!(%error, event_type, "state was not set in an upgrade");
        }
    }

    /// Takes a user's tags, push rules and direct chat over into a room that replaces one they know.
    pub(crate) async fn carry_over(&self, user: &UserId, new: &RoomId) -> Result<(), OpError> {
        let created = self.state_content(new, "m.room.create").await?.unwrap_or_default();
        let old = created.get("predecessor").and_then(|old| old.get("room_id")).and_then(Value::as_str);
        let Some(old) = old.and_then(|old| RoomId::parse(old).ok()) else { return Ok(()) };
        self.carry_names(&old, new).await?;
        if self.rooms.store().graph.membership(user, &old).await?.is_none() {
            return Ok(());
        }
        if self.accounts.account_data(user, Some(new), "m.tag").await?.is_none()
            && let Some(tags) = self.accounts.account_data(user, Some(&old), "m.tag").await?
        {
            self.accounts.set_account_data(user, Some(new), "m.tag", &tags).await?;
        }
        self.carry_direct(user, &old, new).await?;
        self.carry_push_rules(user, &old, new).await
    }

    /// Lets our names of a room that was replaced elsewhere name the new one, if the old one itself says so: anybody can
    /// claim to replace a room.
    async fn carry_names(&self, old: &RoomId, new: &RoomId) -> Result<(), OpError> {
        if self.rooms.store().graph.room(old).await?.is_none() {
            return Ok(());
        }
        let tombstone = self.state_content(old, "m.room.tombstone").await?.unwrap_or_default();
        if tombstone.get("replacement_room").and_then(Value::as_str) != Some(new.as_str()) {
            return Ok(());
        }
        if !self.rooms.aliases(old).await?.is_empty() {
            self.rooms.move_aliases(old, new).await?;
        }
        if self.rooms.is_published(old).await? {
            self.rooms.set_published(new, true).await?;
            self.rooms.set_published(old, false).await?;
        }
        Ok(())
    }

    async fn carry_direct(&self, user: &UserId, old: &RoomId, new: &RoomId) -> Result<(), OpError> {
        let edit = |content: Option<Value>| {
            let Some(Value::Object(mut direct)) = content else { return Ok((None, ())) };
            let mut changed = false;
            for rooms in direct.values_mut().filter_map(Value::as_array_mut) {
                let has = |id: &RoomId| rooms.iter().any(|room| room.as_str() == Some(id.as_str()));
                if has(old) && !has(new) {
                    rooms.push(new.as_str().into());
                    changed = true;
                }
            }
            Ok::<_, AccountError>((changed.then_some(Value::Object(direct)), ()))
        };
        Ok(self.accounts.edit_account_data(user, None, "m.direct", edit).await?)
    }

    async fn carry_push_rules(&self, user: &UserId, old: &RoomId, new: &RoomId) -> Result<(), OpError> {
        let edit = |content: Option<Value>| {
            let Some(mut content) = content else { return Ok((None, ())) };
            let changed = copy_rules(&mut content, old, new);
            Ok::<_, AccountError>((changed.then_some(content), ()))
        };
        Ok(self.accounts.edit_account_data(user, None, "m.push_rules", edit).await?)
    }
}

fn refused(error: OpError) -> OpError {
    match error {
        OpError::InvalidRoomState(why) => OpError::Forbidden(why),
        other => other,
    }
}

/// Copies the room rule of `old`, and override rules with a condition on it, for `new`.
fn copy_rules(content: &mut Value, old: &RoomId, new: &RoomId) -> bool {
    let Some(global) = content.get_mut("global").and_then(Value::as_object_mut) else { return false };
    let mut known: HashSet<String> = HashSet::new();
    let mut changed = false;
    for kind in ["override", "room"] {
        let Some(rules) = global.get_mut(kind).and_then(Value::as_array_mut) else { continue };
        known.extend(rules.iter().filter_map(|rule| Some(rule.get("rule_id")?.as_str()?.to_owned())));
        let about_old = |rule: &&Value| {
            let named = rule.get("rule_id").and_then(Value::as_str) == Some(old.as_str());
            named || rule.get("conditions").is_some_and(|conditions| conditions.to_string().contains(old.as_str()))
        };
        let copies: Vec<Value> = rules
            .iter()
            .filter(about_old)
            .filter_map(|rule| serde_json::from_str(&rule.to_string().replace(old.as_str(), new.as_str())).ok())
            .collect();
        for copy in copies {
            let id = copy.get("rule_id").and_then(Value::as_str).unwrap_or_default().to_owned();
            if known.insert(id) {
                rules.push(copy);
                changed = true;
            }
        }
    }
    changed
}

/// Levels that let the creator send all of the first events, even if they will have less later.
fn enough_to_create(mut levels: Content, user: &UserId, rules: &ruma::room_version_rules::RoomVersionRules) -> Content {
    if rules.authorization.explicitly_privilege_room_creators {
        return levels;
    }
    let named = |name: &str, default: i64| levels.get(name).and_then(Value::as_i64).unwrap_or(default);
    let of_events = levels.get("events").and_then(Value::as_object);
    let most = of_events.into_iter().flat_map(Content::values).filter_map(Value::as_i64).max().unwrap_or(0);
    let needed = most.max(named("state_default", 50)).max(named("ban", 50)).max(named("kick", 50));
    let Some(users) = levels.get_mut("users").and_then(Value::as_object_mut) else { return levels };
    let current = users.get(user.as_str()).and_then(Value::as_i64).unwrap_or(0);
    if current < needed {
        users.insert(user.to_string(), needed.into());
    }
    levels
}

/// Older rooms may hold levels as strings.
fn make_integers(levels: &mut Content) {
    for value in levels.values_mut() {
        match value {
            Value::String(text) => {
                if let Ok(level) = text.trim().parse::<i64>() {
                    *value = level.into();
                }
            }
            Value::Object(inner) => make_integers(inner),
            _ => {}
        }
    }
}

fn into_object(value: Value) -> Option<Content> {
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}
