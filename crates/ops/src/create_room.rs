//! Making rooms: presets, and the order of the first events (CS API, `POST /createRoom`).

use std::collections::HashSet;

use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomVersionId, UserId,
    api::client::room::create_room::v3::RoomPreset,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};
use samtal_event::{Draft, rules_of};
use samtal_room::{NewRoom, RoomError};
use serde_json::{Map, Value, json};

use crate::{EncryptedByDefault, Homeserver, OpError, member::Content};

/// Most users that are invited while a room is made.
const INVITES_MAX: usize = 100;

/// A state event that the creator asks for.
#[derive(Clone, Debug)]
pub struct InitialState {
    /// Its type.
    pub event_type: String,
    /// Its state key.
    pub state_key: String,
    /// Its content.
    pub content: Content,
}

/// What a user wants of a new room.
#[derive(Clone, Debug)]
pub struct CreateRoom {
    /// Who makes it.
    pub creator: OwnedUserId,
    /// Its version, if the creator names one.
    pub version: Option<RoomVersionId>,
    /// What it is for; by default what the visibility suggests.
    pub preset: Option<RoomPreset>,
    /// Whether it is listed in the directory.
    pub published: bool,
    /// The localpart of its alias.
    pub alias_localpart: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Who is invited.
    pub invite: Vec<OwnedUserId>,
    /// Whether the invites are to a direct chat.
    pub is_direct: bool,
    /// Further content of the create event.
    pub creation_content: Content,
    /// Further state, which beats what the preset gives.
    pub initial_state: Vec<InitialState>,
    /// What replaces the default power levels.
    pub power_levels: Content,
    /// The application service that asks, by its id.
    pub service: Option<String>,
    /// The room's id, if it had to be known before: from [`samtal_room::Rooms::new_room_id`].
    pub room_id: Option<OwnedRoomId>,
    /// Whether it stays unencrypted, even where rooms are encrypted by default.
    pub unencrypted: bool,
}

impl CreateRoom {
    /// A private room.
    pub fn new(creator: impl Into<OwnedUserId>) -> Self {
        Self {
            creator: creator.into(),
            version: None,
            preset: None,
            published: false,
            alias_localpart: None,
            name: None,
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            creation_content: Map::new(),
            initial_state: Vec::new(),
            power_levels: Map::new(),
            service: None,
            room_id: None,
            unencrypted: false,
        }
    }

    fn preset(&self) -> RoomPreset {
        match &self.preset {
            Some(preset) => preset.clone(),
            None if self.published => RoomPreset::PublicChat,
            None => RoomPreset::PrivateChat,
        }
    }

    fn has_state(&self, event_type: &str) -> bool {
        self.initial_state.iter().any(|event| event.event_type == event_type && event.state_key.is_empty())
    }
}

/// The first events of a room under way: later ones of the same key replace earlier ones in their place.
#[derive(Default)]
struct FirstEvents(Vec<(String, String, Value)>);

impl FirstEvents {
    /// Adds an event at the end. The creator's join stays the first.
    fn push(&mut self, event_type: &str, state_key: &str, content: Value) {
        if self.0.first().is_some_and(|(_, creator, _)| event_type == "m.room.member" && creator == state_key) {
            return;
        }
        self.0.retain(|(other_type, other_key, _)| !(other_type == event_type && other_key == state_key));
        self.0.push((event_type.to_owned(), state_key.to_owned(), content));
    }

    fn into_drafts(self) -> Result<Vec<Draft>, OpError> {
        self.0
            .into_iter()
            .map(|(event_type, key, content)| Ok(Draft::state_of(&StateEventType::from(event_type), key, &content)?))
            .collect()
    }
}

impl Homeserver {
    /// Makes a room with all that the creator asked for, or nothing.
    pub async fn create_room(&self, wish: CreateRoom) -> Result<OwnedRoomId, OpError> {
        let version = wish.version.clone().unwrap_or_else(|| self.settings.default_room_version.clone());
        let rules = rules_of(&version).ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
        if wish.invite.len() > INVITES_MAX {
            return Err(OpError::Invalid(format!("at most {INVITES_MAX} users can be invited at once")));
        }
        let alias = self.new_alias(&wish).await?;
        for invited in &wish.invite {
            self.check_invite(&wish.creator, invited).await?;
        }
        if wish.published && !self.may_publish(&wish.creator).await? {
            return Err(OpError::Forbidden("You may not list rooms in the public directory".into()));
        }
        let create = create_content(&wish, &version, rules)?;
        let creators = creators(&wish.creator, &create, rules);
        let events = self.first_events(&wish, rules, &creators, alias.as_deref()).await?;
        let new = NewRoom {
            version,
            creator: wish.creator.clone(),
            create: Draft::state_of(&StateEventType::RoomCreate, "", &create)?,
            events: events.into_drafts()?,
            alias,
            published: wish.published,
        };
        let room_id = match &wish.room_id {
            Some(room_id) => room_id.clone(),
            None => self.rooms.new_room_id()?,
        };
        let room_id = self.rooms.create_as(new, room_id).await.map_err(|error| match error {
            RoomError::Refused(why) => OpError::InvalidRoomState(why),
            RoomError::AliasTaken => OpError::RoomInUse,
            other => other.into(),
        })?;
        if wish.creation_content.contains_key("predecessor") {
            self.carry_over(&wish.creator, &room_id).await?;
        }
        self.invite_others(&wish, &room_id).await;
        Ok(room_id)
    }

    async fn new_alias(&self, wish: &CreateRoom) -> Result<Option<OwnedRoomAliasId>, OpError> {
        let Some(localpart) = &wish.alias_localpart else { return Ok(None) };
        if localpart.is_empty() || localpart.contains([':', '\0']) || localpart.chars().any(char::is_whitespace) {
            return Err(OpError::Invalid("room_alias_name is not the localpart of an alias".into()));
        }
        let alias = RoomAliasId::parse(format!("#{localpart}:{}", self.name))
            .map_err(|_| OpError::Invalid("room_alias_name is not the localpart of an alias".into()))?;
        self.check_alias_name(&alias, wish.service.as_deref())?;
        if self.rooms.alias(&alias).await?.is_some() {
            return Err(OpError::RoomInUse);
        }
        Ok(Some(alias))
    }

    async fn first_events(
        &self,
        wish: &CreateRoom,
        rules: &RoomVersionRules,
        creators: &HashSet<OwnedUserId>,
        alias: Option<&RoomAliasId>,
    ) -> Result<FirstEvents, OpError> {
        let mut events = FirstEvents::default();
        let join = self.member_content(&wish.creator, &MembershipState::Join).await?;
        events.push("m.room.member", wish.creator.as_str(), Value::Object(join));
        let levels = wish
            .initial_state
            .iter()
            .find(|event| event.event_type == "m.room.power_levels" && event.state_key.is_empty());
        let levels = match levels {
            Some(asked) => asked.content.clone(),
            None => power_levels(wish, rules, creators)?,
        };
        events.push("m.room.power_levels", "", Value::Object(levels));
        if let Some(alias) = alias {
            events.push("m.room.canonical_alias", "", json!({ "alias": alias }));
        }
        self.preset_events(wish, &mut events);
        for asked in &wish.initial_state {
            if asked.event_type == "m.room.create" {
                return Err(OpError::InvalidRoomState("initial_state may not hold the create event".into()));
            }
            if asked.event_type != "m.room.power_levels" {
                events.push(&asked.event_type, &asked.state_key, Value::Object(asked.content.clone()));
            }
        }
        if let Some(name) = &wish.name {
            events.push("m.room.name", "", json!({ "name": name }));
        }
        if let Some(topic) = &wish.topic {
            let block = json!({ "m.text": [{ "body": topic }] });
            events.push("m.room.topic", "", json!({ "topic": topic, "m.topic": block }));
        }
        for invited in wish.invite.iter().filter(|invited| self.is_local(invited)) {
            let mut content = self.member_content(invited, &MembershipState::Invite).await?;
            if wish.is_direct {
                content.insert("is_direct".into(), true.into());
            }
            events.push("m.room.member", invited.as_str(), Value::Object(content));
        }
        Ok(events)
    }

    fn preset_events(&self, wish: &CreateRoom, events: &mut FirstEvents) {
        let preset = wish.preset();
        let is_public = preset == RoomPreset::PublicChat;
        events.push("m.room.join_rules", "", json!({ "join_rule": if is_public { "public" } else { "invite" } }));
        events.push("m.room.history_visibility", "", json!({ "history_visibility": "shared" }));
        // Without the event guests are kept out, as they are to be in public rooms.
        if !is_public {
            events.push("m.room.guest_access", "", json!({ "guest_access": "can_join" }));
        }
        // Spaces hold no messages.
        let talks = !wish.creation_content.contains_key("type") && !wish.unencrypted;
        let by_default = match self.settings.encrypted_by_default {
            EncryptedByDefault::None => false,
            EncryptedByDefault::Private => !is_public && !self.is_bridged(wish),
            EncryptedByDefault::All => true,
        };
        if by_default && talks && !wish.has_state("m.room.encryption") {
            events.push("m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" }));
        }
    }

    /// Whether an application service makes the room, or one of its users is invited: those that encrypt say so.
    fn is_bridged(&self, wish: &CreateRoom) -> bool {
        let of_service = |user: &OwnedUserId| self.accounts.services.exclusive_user(user).is_some();
        wish.service.is_some() || of_service(&wish.creator) || wish.invite.iter().any(of_service)
    }

    /// Invites users of other servers, now that there is a room. One that fails is left out.
    async fn invite_others(&self, wish: &CreateRoom, room_id: &OwnedRoomId) {
        for invited in wish.invite.iter().filter(|invited| !self.is_local(invited)) {
            let mut content = Content::new();
            if wish.is_direct {
                content.insert("is_direct".into(), true.into());
            }
            if let Err(error) = self.invite(&wish.creator, invited, room_id, content).await {
                tracing::info!(%error, room = %room_id, "a user of another server could not be invited");
            }
        }
    }
}

fn create_content(wish: &CreateRoom, version: &RoomVersionId, rules: &RoomVersionRules) -> Result<Content, OpError> {
    let mut content = wish.creation_content.clone();
    content.insert("room_version".into(), version.as_str().into());
    content.remove("creator");
    if !rules.authorization.use_room_create_sender {
        content.insert("creator".into(), wish.creator.as_str().into());
    }
    if !rules.authorization.additional_room_creators {
        return Ok(content);
    }
    let mut additional = match content.remove("additional_creators") {
        None => Vec::new(),
        Some(value) => serde_json::from_value::<Vec<OwnedUserId>>(value)
            .map_err(|_| OpError::Invalid("additional_creators is not a list of user ids".into()))?,
    };
    if wish.preset() == RoomPreset::TrustedPrivateChat {
        additional.extend(wish.invite.iter().cloned());
    }
    let mut seen = HashSet::new();
    additional.retain(|user| *user != wish.creator && seen.insert(user.clone()));
    if !additional.is_empty() {
        content.insert("additional_creators".into(), json!(additional));
    }
    Ok(content)
}

/// Those who have infinite power from room version 12 on.
fn creators(creator: &UserId, create: &Content, rules: &RoomVersionRules) -> HashSet<OwnedUserId> {
    let mut creators = HashSet::new();
    if rules.authorization.explicitly_privilege_room_creators {
        creators.insert(creator.to_owned());
        let additional = create.get("additional_creators").and_then(Value::as_array);
        let ids = additional.into_iter().flatten().filter_map(Value::as_str);
        creators.extend(ids.filter_map(|id| UserId::parse(id).ok()));
    }
    creators
}

/// The power levels of a new room, with what the creator wants otherwise laid over them.
fn power_levels(
    wish: &CreateRoom,
    rules: &RoomVersionRules,
    creators: &HashSet<OwnedUserId>,
) -> Result<Content, OpError> {
    let infinite = rules.authorization.explicitly_privilege_room_creators;
    let mut users = Map::new();
    if !infinite {
        users.insert(wish.creator.to_string(), 100.into());
        if wish.preset() == RoomPreset::TrustedPrivateChat {
            users.extend(wish.invite.iter().map(|invited| (invited.to_string(), 100.into())));
        }
    }
    let mut levels = default_power_levels(rules);
    levels.insert("users".into(), Value::Object(users));
    // Whoever is in a private chat may bring in others.
    if wish.preset() != RoomPreset::PublicChat {
        levels.insert("invite".into(), 0.into());
    }
    levels.extend(wish.power_levels.clone());
    let named = levels.get("users").and_then(Value::as_object);
    if named.is_some_and(|users| users.keys().any(|user| creators.iter().any(|creator| creator.as_str() == user))) {
        return Err(OpError::Invalid("the power levels may not name a creator of the room".into()));
    }
    Ok(levels)
}

/// The power levels of a room that nobody said anything about, without users.
pub(crate) fn default_power_levels(rules: &RoomVersionRules) -> Content {
    let tombstone = if rules.authorization.explicitly_privilege_room_creators { 150 } else { 100 };
    let levels = json!({
        "users_default": 0,
        "events": {
            TimelineEventType::RoomName.to_string(): 50,
            TimelineEventType::RoomPowerLevels.to_string(): 100,
            TimelineEventType::RoomHistoryVisibility.to_string(): 100,
            TimelineEventType::RoomCanonicalAlias.to_string(): 50,
            TimelineEventType::RoomAvatar.to_string(): 50,
            TimelineEventType::RoomTombstone.to_string(): tombstone,
            TimelineEventType::RoomServerAcl.to_string(): 100,
            TimelineEventType::RoomEncryption.to_string(): 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 50,
        "historical": 100,
    });
    match levels {
        Value::Object(levels) => levels,
        _ => Content::new(),
    }
}
